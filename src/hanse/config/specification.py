"""A run's spec and layout as they travel: read back into objects, or refused.

What is read is believed only if it is written back as the very same bytes: a setting that the
receiver does not know, or reads otherwise, cannot hide in a spec.
"""

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from hanse.config.schema import Keys, build, check, local_training
from hanse.core.canonical import Json, encode
from hanse.core.layout import ALIGNMENT, ROLES, Layout
from hanse.core.metrics import Metric
from hanse.core.pipeline import Pipeline
from hanse.core.spec import FORMAT, Evaluation, Privacy, Quorum, RunSpec
from hanse.core.step import Scalar
from hanse.core.work import LocalTraining, Proximal
from hanse.errors import HanseError, ProtocolError
from hanse.names import SERVERS, lookup
from hanse.strategies import Strategy
from hanse.strategies.fedsgd import ONE_GRADIENT
from hanse.train.local import evaluation_scalars, real_sum, training_scalars

MOST_BYTES = 8 * 2**20
MOST_MODEL = 2**40
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)


@dataclass(frozen=True)
class Specification:
    """A spec with what stands behind its names: the strategy, and the metrics."""

    spec: RunSpec
    strategy: Strategy
    metrics: tuple[Metric, ...]


def layout_json(layout: Layout) -> dict[str, Json]:
    """Return a layout as JSON takes it."""
    return {
        "dtype": layout.dtype,
        "tensors": [[e.name, list(e.shape), e.role] for e in layout.entries],
    }


def read_layout(found: Any) -> Layout:
    """Return the layout of :func:`layout_json`; ProtocolError for anything else."""
    try:
        tensors = [(name, tuple(map(_size, shape)), role) for name, shape, role in found["tensors"]]
        if any(role not in ROLES or not isinstance(name, str) for name, _, role in tensors):
            raise ValueError("a tensor has no name or no role")
        if sum(8 * math.prod(shape) + ALIGNMENT for _, shape, _ in tensors) > MOST_MODEL:
            raise ValueError(f"it has more than {MOST_MODEL} bytes")
        layout = Layout.build(found["dtype"], tensors)
        if layout_json(layout) != found:
            raise ValueError("its tensors are not in their order")
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"a layout that cannot be read: {error}") from error
    return layout


def _size(found: Any) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < 2**40:
        raise ValueError(f"a dimension of {found!r}")
    return found


def read_spec(text: str, layout: Layout) -> Specification:
    """Return the specification of a canonical spec.

    Raises ProtocolError unless it reads back as it is written.
    """
    try:
        if len(text) > MOST_BYTES:
            raise ValueError(f"{len(text)} bytes")
        found = json.loads(text)
        read = _specification(found, layout)
        same = read.spec.canonical == text
    except (*UNREADABLE, HanseError) as error:
        raise ProtocolError(f"a spec that cannot be read: {error}") from error
    if not same:
        raise ProtocolError(
            "a spec that does not read back as it is written", hint=_odd(read, text)
        )
    return read


def _odd(read: Specification, text: str) -> str:
    mine, theirs = read.spec.json(), json.loads(text)
    odd = [k for k in {*mine, *theirs} if encode(mine.get(k)) != encode(theirs.get(k))]
    return f"look at {', '.join(sorted(odd))}; both ends need the same version of Hanse"


def _specification(found: Any, layout: Layout) -> Specification:
    told = check(found, SPEC, "the spec")
    if not NAME.fullmatch(told["name"]):
        raise ValueError(f"{told['name'][:80]!r} names no run")
    if told["format"] != FORMAT:
        raise ValueError(f"format {told['format']}, and this version reads {FORMAT}")
    metrics = tuple(lookup("metric", name) for name in told["metrics"])
    strategy, local = _strategy(told["strategy"]), _local(told["local"])
    if strategy.fixed is not None and local != strategy.fixed:
        raise ValueError(f"{strategy.name} fixes local training otherwise")
    spec = RunSpec(
        name=told["name"],
        task=told["task"],
        data=told["data"],
        clients=_listed(told["clients"]),
        rounds=told["rounds"],
        seed=told["seed"],
        strategy=strategy.settings(),
        sampler=strategy.sampler,
        local=local,
        pipeline=Pipeline(map(_step, told["pipeline"])),
        layout=layout,
        training=_training(told["reports"]),
        evaluation_scalars=evaluation_scalars(metrics),
        evaluation=build(Evaluation, told["evaluation"], "evaluation"),
        quorum=build(Quorum, told["quorum"], "quorum"),
        privacy=build(Privacy, told["privacy"], "privacy") if "privacy" in told else None,
        faults=told["faults"],
        population=told["population"],
        app=told["app"],
        sources=told["sources"],
        purpose=told["purpose"],
        engine=told["engine"],
    )
    return Specification(spec, strategy, metrics)


def _listed(clients: dict[str, Any]) -> tuple[str, ...]:
    keys = Keys({"count": int, "digest": str, "ids": tuple[str, ...]}, frozenset({"ids"}))
    return check(clients, keys, "clients")["ids"]


def _named(found: dict[str, Any], key: str, make: Callable[[str], Any], where: str) -> Any:
    """Return what a table with the name of its kind under ``key`` stands for, its types checked."""
    settings = dict(found)
    return build(make(str(settings.pop(key))), settings, where)


def _strategy(found: dict[str, Any]) -> Strategy:
    told = check(found, STRATEGY, "strategy")
    correction = told["correction"]
    mu = None if correction is None else check(correction, Keys({"proximal": float}), "correction")
    return Strategy(
        told["name"],
        _named(told["server"], "name", lambda name: SERVERS[name], "server"),
        _named(told["sampler"], "name", lambda name: lookup("sampler", name), "sampler"),
        None if mu is None else Proximal(mu["proximal"]),
        ONE_GRADIENT if told["name"] == "fedsgd" else None,
    )


def _step(found: dict[str, Any]) -> Any:
    return _named(found, "step", lambda name: lookup("step", name), "pipeline")


def _local(found: dict[str, Any]) -> LocalTraining:
    return LocalTraining(**local_training(found, "local"))


def _training(names: Iterable[str]) -> tuple[Scalar, ...]:
    standard, listed = training_scalars(), list(names)
    if listed[: len(standard)] != [scalar.name for scalar in standard]:
        raise ValueError(f"a report of {', '.join(listed)}")
    return (*standard, *(real_sum(name) for name in listed[len(standard) :]))


TABLE = dict[str, Any]
STRATEGY: Final = Keys(
    {"name": str, "server": TABLE, "sampler": TABLE, "correction": TABLE | None},
    frozenset({"name", "server", "sampler", "correction"}),
)
TYPES: Final[dict[str, Any]] = {
    "format": int,
    "name": str,
    "task": str,
    "data": str,
    "clients": TABLE,
    "population": TABLE,
    "rounds": int,
    "seed": int,
    "strategy": TABLE,
    "local": TABLE,
    "pipeline": list[TABLE],
    "evaluation": TABLE,
    "quorum": TABLE,
    "privacy": TABLE,
    "faults": TABLE,
    "engine": Literal["exact", "batched"],
    "model": TABLE,
    "sums": TABLE,
    "metrics": tuple[str, ...],
    "reports": tuple[str, ...],
    "app": dict[str, str],
    "sources": tuple[str, ...],
    "purpose": str,
}
SPEC: Final = Keys(TYPES, frozenset(TYPES) - {"privacy"})
