"""The pipeline in words: what each step does, what then holds, and who sees what of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from hanse.report.folder import Record, Table, number, rows, table, words


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its name, its settings, and its meaning."""

    name: str
    settings: str
    meaning: str


def steps(record: Record) -> list[Step]:
    """Return the steps of a run's pipeline, the reducer that is always there included."""
    listed: list[Table] = [table(step) for step in rows(record.spec.get("pipeline"))]
    if not listed and "pipeline" not in record.spec:
        return []
    names = {words(step.get("step")) for step in listed}
    if "weight" not in names:
        listed = [{"step": "weight", "by": "uniform"}, *listed]
    if not names & _REDUCERS:
        listed = [*listed, {"step": "sum"}]
    return [_step(step) for step in listed]


def observers(record: Record) -> list[tuple[str, str]]:
    """Return who sees what, in words."""
    listed = [table(step) for step in rows(record.spec.get("pipeline"))]
    named = {words(step.get("step")): step for step in listed}
    if not record.spec or set(named) - set(_MEANINGS):
        return []
    noise = number(named.get("gaussian_noise", {}).get("noise_multiplier"))
    model = (
        f"the model, with Gaussian noise of multiplier {noise:g} added to each round's total"
        if noise
        else "the model; without noise, it may show whether a particular row was trained on"
    )
    return [
        ("the coordinator", _coordinator(record, "clip" in named, "weight" in named)),
        ("other sites", "the global model of each round, and no update of another site"),
        ("whoever gets the model", model),
    ]


def explained(record: Record) -> list[str]:
    """Return the lines of `hanse explain`, nothing where that is not at hand."""
    try:
        explain = import_module("hanse.report.explain").explain_lines
    except (ImportError, AttributeError):
        return []
    return [str(line) for line in explain(record.spec)]


def _step(step: Table) -> Step:
    name = words(step.get("step"))
    settings = ", ".join(f"{key} = {_plain(v)}" for key, v in step.items() if key != "step")
    meaning = _MEANINGS.get(name, lambda _: "")
    return Step(name, settings, meaning(step))


def _plain(value: object) -> str:
    known = number(value)
    return f"{known:g}" if known is not None else str(value)


def _coordinator(record: Record, is_clipped: bool, is_weighted: bool) -> str:
    release = words(table(record.spec, "evaluation").get("release"))
    update = "each site's update, clipped and weighted" if is_clipped else "each site's update"
    weight = "its weight, " if is_weighted else ""
    metrics = {
        "per-site": "the counts behind each site's metrics",
        "sum": "the metrics of all sites together",
        "simulation": "metrics that only a simulation can measure",
    }.get(release, "no metrics")
    return f"{update}; {weight}its training loss where the pipeline adds no noise; {metrics}"


def _weight(step: Table) -> str:
    by, cap = words(step.get("by")) or "examples", number(step.get("cap"))
    if by == "uniform":
        return "Every client counts alike."
    counts = f"A client counts by its number of {by}"
    return f"{counts}, and {cap:g} or more count alike." if cap else f"{counts}, without a cap."


def _clip(step: Table) -> str:
    norm = number(step.get("norm"))
    if norm is None:
        return ""
    return (
        f"An update longer than {norm:g} (L2 norm) is shortened to it, at the client: "
        f"no client's share of a round is longer than {norm:g}."
    )


def _noise(step: Table) -> str:
    multiplier = number(step.get("noise_multiplier"))
    return (
        f"The coordinator adds Gaussian noise of {_plain(multiplier)} times that bound to the "
        "total: protection against those who see the model, none against the coordinator."
    )


def _sum(_: Table) -> str:
    return "Shares are added exactly, as integers: the order of arrival changes no bit."


_REDUCERS = {"sum"}
_MEANINGS: dict[str, Callable[[Table], str]] = {
    "weight": _weight,
    "clip": _clip,
    "gaussian_noise": _noise,
    "sum": _sum,
}


def is_plain_sum(record: Record) -> bool:
    """Whether the coordinator adds updates that it sees."""
    names: Sequence[str] = [step.name for step in steps(record)]
    return bool(names) and set(names) <= set(_MEANINGS)
