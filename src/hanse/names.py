"""What the names in a run file stand for: built-in things, those of installed packages, and yours.

Built-in things stand in dicts. Others are found by the entry points ``hanse.steps``,
``hanse.reducers`` and ``hanse.strategies`` of installed packages. Your own code is named
``"module:name"``; to import it is to execute it (:func:`resolve`).
"""

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, overload

from hanse.core.metrics import METRICS, Metric
from hanse.core.reduce import Sum
from hanse.core.samplers import All, FixedSize, Poisson, Sampler
from hanse.core.step import Step
from hanse.core.weight import Weight
from hanse.data import PARTITIONERS, Partitioner
from hanse.errors import ConfigError, HanseError, PipelineError, TaskError
from hanse.privacy import (
    AdaptiveClip,
    Clip,
    GaussianNoise,
    LocalGaussianNoise,
    Rotate,
    ScaledRound,
    SkellamNoise,
)
from hanse.source import only_source
from hanse.strategies import (
    ServerOptimizer,
    Strategy,
    fedadagrad,
    fedadam,
    fedavg,
    fedavgm,
    fedprox,
    fedsgd,
    fedyogi,
)
from hanse.strategies.server import Adagrad, Adam, Momentum, Sgd, Yogi
from hanse.train.userland import userland

__all__ = ["METRICS", "PARTITIONERS", "REDUCERS", "SAMPLERS", "SERVERS", "STEPS", "STRATEGIES"]
__all__ += ["Kind", "lookup", "nearest", "resolve"]

STEPS: Final[dict[str, Callable[..., Step]]] = {
    step.name: step
    for step in (
        Weight,
        Clip,
        AdaptiveClip,
        Rotate,
        ScaledRound,
        GaussianNoise,
        LocalGaussianNoise,
        SkellamNoise,
    )
}
REDUCERS: Final[dict[str, Callable[..., Step]]] = {step.name: step for step in (Sum,)}
SAMPLERS: Final[dict[str, Callable[..., Sampler]]] = {
    sampler.name: sampler for sampler in (All, FixedSize, Poisson)
}
STRATEGIES: Final[dict[str, Callable[..., Strategy]]] = {
    "fedadagrad": fedadagrad,
    "fedadam": fedadam,
    "fedavg": fedavg,
    "fedavgm": fedavgm,
    "fedprox": fedprox,
    "fedsgd": fedsgd,
    "fedyogi": fedyogi,
}

SERVERS: Final[dict[str, Callable[..., ServerOptimizer]]] = {
    server.name: server for server in (Sgd, Momentum, Adagrad, Adam, Yogi)
}

Kind = Literal["step", "reducer", "strategy", "sampler", "partition", "metric"]


@dataclass(frozen=True, slots=True)
class _Table:
    known: Mapping[str, object]
    groups: tuple[str, ...] = ()
    error: type[HanseError] = ConfigError


_TABLES: Final[dict[Kind, _Table]] = {
    "step": _Table(STEPS | REDUCERS, ("hanse.steps", "hanse.reducers"), PipelineError),
    "reducer": _Table(REDUCERS, ("hanse.reducers",), PipelineError),
    "strategy": _Table(STRATEGIES, ("hanse.strategies",)),
    "sampler": _Table(SAMPLERS),
    "partition": _Table(PARTITIONERS),
    "metric": _Table(METRICS),
}


@overload
def lookup(kind: Literal["step", "reducer"], name: str) -> Callable[..., Step]: ...
@overload
def lookup(kind: Literal["strategy"], name: str) -> Callable[..., Strategy]: ...
@overload
def lookup(kind: Literal["sampler"], name: str) -> Callable[..., Sampler]: ...
@overload
def lookup(kind: Literal["partition"], name: str) -> Callable[..., Partitioner]: ...
@overload
def lookup(kind: Literal["metric"], name: str) -> Metric: ...
def lookup(kind: Kind, name: str) -> object:
    """Return what ``name`` stands for; of the kind ``step`` are reducers too.

    Raises PipelineError for an unknown step or reducer, ConfigError for anything else unknown,
    with the nearest known name; TaskError if an installed package's own cannot be imported.
    """
    table = _TABLES[kind]
    if name in table.known:
        return table.known[name]
    offered = [entry for group in table.groups for entry in entry_points(group=group)]
    for entry in offered:
        if entry.name == name:
            with userland(phase=f'loading {kind} "{name}" from {entry.value}'):
                return entry.load()
    known = sorted({*table.known, *(entry.name for entry in offered)})
    raise table.error(
        f'unknown {kind} "{name}"{nearest(name, known)}', hint=f"known are {', '.join(known)}"
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean "…"?`` with the known name that is nearest, or nothing."""
    plain = {other.lower().replace("-", "_"): other for other in known}
    found = get_close_matches(name.lower().replace("-", "_"), plain, n=1)
    return f'; did you mean "{plain[found[0]]}"?' if found else ""


def resolve(reference: str, folder: Path | None, key: str) -> Any:
    """Import and return what ``reference`` names: ``"app:task"`` is ``task`` of ``app.py``.

    Modules are looked for in ``folder`` first; ``key`` is what the run file calls the reference.
    A module of the same name from another folder, imported before, makes room. Raises ConfigError
    if there is no such module or name, TaskError if the module raises.
    """
    said = f'{key} = "{reference}"'
    module_name, _, names = reference.partition(":")
    if not module_name or not names:
        raise ConfigError(
            f"{said} does not name an object",
            hint=f'write module and name: {key} = "app:{key}" is {key} in app.py',
        )
    found: Any = _import(module_name, folder, said)
    for name in names.split("."):
        if not hasattr(found, name):
            public = [other for other in dir(found) if not other.startswith("_")]
            raise ConfigError(
                f'{said}: {module_name} has no "{name}"{nearest(name, public)}',
                hint=f"define {name} there, or correct the name",
            )
        found = getattr(found, name)
    return found


def _import(name: str, folder: Path | None, said: str) -> ModuleType:
    root = name.partition(".")[0]
    if folder is not None:
        _put_first(folder.resolve(), root)
    if root not in sys.modules and find_spec(root) is None:
        raise ConfigError(
            f"{said}: there is no module {root}",
            hint=f"modules are looked for in the run file's folder, {folder}, then in Python's",
        )
    try:
        with userland(phase=f"importing {name}"):
            return importlib.import_module(name)
    except TaskError as error:
        lacking = error.__cause__
        if not isinstance(lacking, ModuleNotFoundError) or not lacking.name:
            raise
        raise _lacking(lacking.name, name, said, error) from lacking


def _lacking(lacking: str, name: str, said: str, error: TaskError) -> HanseError:
    """Return the error for a module that is not there while ``name`` is imported."""
    if name == lacking or name.startswith(f"{lacking}."):
        return ConfigError(f"{said}: there is no module {lacking}", hint="correct the name")
    if lacking in ("torch", "onnx"):
        return ConfigError(
            f"{name} needs {lacking}, which is not installed",
            hint=f"pip install 'hanse[{lacking}]'",
        )
    return error


def _put_first(folder: Path, root: str) -> None:
    """Make ``folder`` the first place to import from, also for a module imported elsewhere."""
    only_source(folder)
    path = str(folder)
    if path in sys.path:
        sys.path.remove(path)
    sys.path.insert(0, path)
    importlib.invalidate_caches()
    own = {folder / f"{root}.py", folder / root / "__init__.py"}
    loaded = getattr(sys.modules.get(root), "__file__", None)
    if loaded is None or Path(loaded).resolve() in own or not any(p.exists() for p in own):
        return
    for module in [m for m in sys.modules if m == root or m.startswith(f"{root}.")]:
        del sys.modules[module]
