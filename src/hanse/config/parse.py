"""From the text of a run file to checked values, one clear line for what cannot be meant."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from hanse.config.document import Document, as_table, override, read
from hanse.config.runfile import RunFile, Split
from hanse.config.schema import Keys, build, check, keys_of, local_training, shown
from hanse.core.facts import Facts
from hanse.core.pipeline import Pipeline
from hanse.core.samplers import Sampler
from hanse.core.spec import Evaluation, Privacy, Quorum
from hanse.core.step import Step
from hanse.core.work import LocalTraining
from hanse.data.site import check_id
from hanse.errors import ConfigError
from hanse.names import lookup
from hanse.privacy.claims import check as check_promise
from hanse.privacy.claims import needed, needed_in_training, needed_shared
from hanse.privacy.gaussian import GaussianNoise
from hanse.privacy.local import LocalGaussianNoise
from hanse.privacy.skellam import SkellamNoise
from hanse.sim.faults import Faults
from hanse.sim.run import Asked, Run
from hanse.strategies import Strategy

MOST_ROUNDS: Final = 10**6
MOST_CLIENTS: Final = 10**9
OWN: Final = "own"
"""The partition of a population in which each client has data of its own."""
NOISES: Final = (GaussianNoise.name, LocalGaussianNoise.name, SkellamNoise.name)
LARGEST_SEED: Final = 2**53 - 1
TABLE = dict[str, Any]
TOP: Final = Keys(
    {
        "task": str,
        "data": str,
        "inputs": str,
        "contract": str,
        "files": tuple[str, ...],
        "name": str,
        "purpose": str,
        "sites": tuple[str, ...],
        "rounds": int,
        "seed": int,
        "engine": Asked,
        "sources": dict[str, str],
        "population": TABLE,
        "strategy": TABLE,
        "sampling": TABLE,
        "local": TABLE,
        "pipeline": list[TABLE],
        "evaluation": TABLE,
        "quorum": TABLE,
        "privacy": TABLE,
        "faults": TABLE,
    },
    frozenset({"task", "data", "rounds"}),
)


def load(path: str | Path, overrides: Iterable[str] = ()) -> Run:
    """Return the run that the file at ``path`` describes: :func:`parse`, then its ``load``."""
    return parse(path, overrides).load()


def parse(path: str | Path, overrides: Iterable[str] = ()) -> RunFile:
    """Return what the file at ``path`` says, checked, without importing any of the user's code.

    ``overrides`` are assignments such as ``local.lr=0.1``. Raises ConfigError with one line that
    names key, value and fix, PipelineError for steps that cannot work together.
    """
    path, chosen = Path(path).absolute(), tuple(overrides)
    document = read(path)
    for assignment in chosen:
        override(document, assignment)
    top = check(document, TOP, "the run file")
    for key in ("task", "data", "inputs", "contract"):
        _check_reference(key, top.get(key))
    _check_range("rounds", top["rounds"], 1, MOST_ROUNDS)
    _check_range("seed", top.get("seed", 0), 0, LARGEST_SEED)
    split = _split(top)
    strategy = _strategy(top)
    sites = () if split else _sites(top.get("sites", ()))
    quorum = _table(Quorum, top, "quorum")
    promised = _table(Privacy, top, "privacy") if "privacy" in top else None
    clients, steps = len(sites) or (split.clients if split else 0), top.get("pipeline", ())
    local: Document = top.get("local", {})
    if promised is not None and promised.epsilon is not None:
        if promised.unit in ("person", "example"):
            local = _trained(local, promised, top["rounds"])
        else:
            steps = _noised(steps, promised, strategy.sampler, quorum, clients, top["rounds"])
    evaluation, central = _evaluation(top.get("evaluation", {}))
    found = RunFile(
        path=path,
        overrides=chosen,
        name=_name(top.get("name"), path),
        task=top["task"],
        data=top["data"],
        central=central,
        inputs=top.get("inputs"),
        contract=top.get("contract"),
        files=top.get("files", ()),
        purpose=_purpose(top.get("purpose", "")),
        sites=sites,
        split=split,
        sources=_sources(top.get("sources", {}), path.parent),
        strategy=strategy,
        local=_local(local, strategy),
        pipeline=_pipeline(steps),
        rounds=top["rounds"],
        seed=top.get("seed", 0),
        engine=top.get("engine", "exact"),
        evaluation=evaluation,
        quorum=quorum,
        privacy=promised,
        faults=_table(Faults, top, "faults"),
    )
    _check_whole(found)
    return found


def _check_whole(found: RunFile) -> None:
    """Fold the facts over what the run really is, see that its spec can be written down, and that
    its noise keeps its promise.
    """
    try:
        _ = found.sketch.canonical
        check_promise(found.sketch)
    except ValueError as error:
        raise ConfigError(f"{found.path.name}: {error}", hint="write a smaller number") from error


def _check_reference(key: str, reference: str | None) -> None:
    if reference is not None and not re.fullmatch(r"[\w.]+:[\w.]+", reference):
        raise ConfigError(
            f'{key} = "{reference}" does not name an object',
            hint=f'write module and name: {key} = "app:{key}" is {key} in app.py',
        )


def _check_range(key: str, value: int, lowest: int, highest: int) -> None:
    if value < lowest:
        nothing = " trains nothing" if key == "rounds" else f" is below {lowest}"
        raise ConfigError(f"{key} = {value}{nothing}", hint=f"give {key} of {lowest} or more")
    if value > highest:
        raise ConfigError(f"{key} = {value} is above {highest}", hint=f"give {key} below that")


def _name(name: str | None, path: Path) -> str:
    """Return the run's name: as given, or after the file, or its folder where it is run.toml."""
    if name is not None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise ConfigError(
                f"name = {shown(name)} cannot name a folder",
                hint="use letters, digits, dots, hyphens and underscores",
            )
        return name
    plain = path.parent.name if path.stem == "run" else path.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._") or "run"


def _purpose(purpose: str) -> str:
    if len(purpose) > 200 or not purpose.isprintable():
        raise ConfigError(
            f"purpose = {shown(purpose)} is not one short line",
            hint='write purpose = "cardio-2026"',
        )
    return purpose


def _sites(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ConfigError(
            "the run file names no sites",
            hint='list them: sites = ["one", "two"]; or split one data set with [population]',
        )
    for name in names:
        check_id(name)
        if names.count(name) > 1:
            raise ConfigError(f'site "{name}" is listed twice', hint="list each site once")
    return names


def _sources(paths: Mapping[str, str], folder: Path) -> dict[str, Path]:
    return {name: folder / Path(path).expanduser() for name, path in paths.items()}


def _split(top: Document) -> Split | None:
    if "population" not in top:
        return None
    is_own = (as_table(top["population"]) or {}).get("partition") == OWN
    for key in ("sites",) if is_own else ("sites", "sources"):
        if key in top:
            raise ConfigError(
                f"{key} and [population] exclude each other: [population] splits one data set, "
                "which a function of no site returns",
                hint=f"leave out {key} or [population]",
            )
    own = Keys({"clients": int, "partition": str}, frozenset({"clients", "partition"}))
    where, table = "[population]", top["population"]
    if is_own:
        clients = check(table, own, where, elsewhere=TOP.types)["clients"]
        _check_range("clients", clients, 1, MOST_CLIENTS)
        return Split(clients, OWN, None)
    name = _name_in("partition", table, where)
    make = lookup("partition", name)
    values = check(table, own | keys_of(make), where, elsewhere=TOP.types)
    clients = values.pop("clients")
    _check_range("clients", clients, 1, MOST_CLIENTS)
    del values["partition"]
    return Split(clients, name, make(**values))


def _name_in(key: str, table: Mapping[str, object], where: str) -> str:
    """Return the name under ``key``, by which the rest of a table is judged."""
    if not isinstance(table.get(key), str):
        known = Keys({key: str}, frozenset({key}))
        check({k: v for k, v in table.items() if k == key}, known, where)
    return str(table[key])


def _strategy(top: Document) -> Strategy:
    table, where = top.get("strategy", {"name": "fedavg"}), "[strategy]"
    make = lookup("strategy", _name_in("name", table, where))
    keys = Keys({"name": str}) | keys_of(make).without("sampler")
    values = check(table, keys, where, elsewhere=TOP.types)
    del values["name"]
    if "sampling" not in top:
        return make(**values)
    table, where = top["sampling"], "[sampling]"
    sampler = lookup("sampler", _name_in("name", table, where))
    chosen = check(table, Keys({"name": str}) | keys_of(sampler), where, elsewhere=TOP.types)
    del chosen["name"]
    return make(**values, sampler=sampler(**chosen))


def _local(table: Document, strategy: Strategy) -> LocalTraining:
    values = local_training(table, "[local]", elsewhere=TOP.types)
    fixed = strategy.fixed
    if fixed is None:
        return LocalTraining(**values)
    for key, value in values.items():
        if value != getattr(fixed, key):
            raise ConfigError(
                f"{key} = {shown(table[key])} in [local]: {strategy.name} fixes local training, "
                f"{key} to {shown(getattr(fixed, key) or 'all')}",
                hint="leave [local] out; the rate is the server's: [strategy] lr",
            )
    return fixed


def _step(place: int, table: Document) -> Step:
    name = _name_in("step", table, f"pipeline step {place}")
    make, where = lookup("step", name), f'pipeline step "{name}"'
    values = check(table, Keys({"step": str}) | keys_of(make), where, elsewhere=TOP.types)
    del values["step"]
    return make(**values)


def _pipeline(steps: Iterable[Document]) -> Pipeline:
    return Pipeline(_step(*numbered) for numbered in enumerate(steps, 1))


def _noised(
    steps: Iterable[Document],
    promised: Privacy,
    sampler: Sampler,
    quorum: Quorum,
    clients: int,
    rounds: int,
) -> list[Document]:
    """Return the tables of ``steps`` with the noise that a promise takes, where none is given."""
    filled = [*steps]
    for place, table in enumerate(filled):
        name = table.get("step")
        if name not in NOISES or "noise_multiplier" in table:
            continue
        if name == SkellamNoise.name:

            def facts(multiplier: float, place: int = place, table: Document = table) -> Facts:
                there = {**table, "noise_multiplier": multiplier}
                return _pipeline([*filled[:place], there, *filled[place + 1 :]]).facts()

            found = needed_shared(promised, rounds, facts)
        else:
            is_local = name == LocalGaussianNoise.name
            found = needed(promised, sampler, quorum, clients, rounds, is_local=is_local)
        filled[place] = {**table, "noise_multiplier": found}
    return filled


def _trained(local: Document, promised: Privacy, rounds: int) -> Document:
    """Return ``[local]`` with the noise in training that a promise takes, where none is given."""
    private, steps = as_table(local.get("privacy")), local.get("steps")
    if private is None or "noise_multiplier" in private or type(steps) is not int:
        return local
    rate: Any = private.get("sampling_rate")
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        return local  # what is wrong with it is told when it is read
    sites: Any = private.get("sites_per_person", 1)
    found = needed_in_training(promised, rate, steps * (sites if type(sites) is int else 1), rounds)
    return {**local, "privacy": {**private, "noise_multiplier": found}}


def _evaluation(table: Document) -> tuple[Evaluation, str | None]:
    keys = keys_of(Evaluation) | Keys({"central": str})
    values = check(table, keys, "[evaluation]", elsewhere=TOP.types)
    central = values.pop("central", None)
    _check_reference("central", central)
    return Evaluation(**values), central


def _table(make: Any, top: Document, key: str) -> Any:
    return build(make, top.get(key, {}), f"[{key}]")
