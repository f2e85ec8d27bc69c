"""The pipeline in words: what each step does, what then holds, and who sees what of it."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hanse.core.facts import Facts
from hanse.core.pipeline import Pipeline
from hanse.core.step import Step
from hanse.errors import HanseError
from hanse.names import REDUCERS, STEPS
from hanse.report.folder import Record, Table, number, rows, table, whole_number, words


@dataclass(frozen=True, slots=True)
class Told:
    """One step: its name, its settings, what it does, and what then holds of a share."""

    name: str
    settings: str
    meaning: str
    facts: str = ""


def steps(record: Record) -> list[Told]:
    """Return the steps in the order of application.

    Where one is not built in, they are listed as the spec has them, without facts.
    """
    trace = traced(record)
    if not trace:
        return [_listed(step) for step in _tables(record)]
    return [
        Told(step.name, _settings(step.settings()), _meaning(step), _changes(before, after))
        for step, before, after in trace
    ]


def traced(record: Record) -> list[tuple[Step, Facts, Facts]]:
    """Return (step, facts before, facts after), empty where a step is not built in."""
    if "pipeline" not in record.spec:
        return []
    known = STEPS | REDUCERS
    try:
        built = [known[words(t.get("step"))](**_without_name(t)) for t in _tables(record)]
        return Pipeline(built).trace(_start(record))
    except (HanseError, KeyError, TypeError, ValueError):
        return []


def observers(record: Record) -> list[tuple[str, str]]:
    """Return who sees what, in words; empty where the facts are not known."""
    trace = traced(record)
    if not trace:
        return []
    facts = trace[-1][2]
    return [
        ("the coordinator", _coordinator(record, facts)),
        ("other sites", "the global model of each round, and no other site's update"),
        ("whoever gets the model", _model(facts)),
    ]


def sees_each_update(record: Record) -> bool:
    """Whether the coordinator sees the update of each site."""
    trace = traced(record)
    return bool(trace) and trace[-1][2].visible == "each"


def _tables(record: Record) -> list[Table]:
    return [table(step) for step in rows(record.spec.get("pipeline"))]


def _without_name(step: Table) -> Table:
    return {key: value for key, value in step.items() if key != "step"}


def _start(record: Record) -> Facts:
    cohort = whole_number(table(record.spec, "sums").get("cohort"))
    return Facts(cohort=cohort, coordinates=whole_number(table(record.spec, "model").get("size")))


def _listed(step: Table) -> Told:
    return Told(words(step.get("step")), _settings(step), "")


def _settings(step: Mapping[str, object]) -> str:
    return ", ".join(f"{key} = {_plain(v)}" for key, v in step.items() if key != "step")


def _plain(value: object) -> str:
    known = number(value)
    return f"{known:g}" if known is not None else str(value)


def _coordinator(record: Record, facts: Facts) -> str:
    if facts.visible == "sum":
        update = "sums of updates only"
    else:
        update = "each site's update"
        if math.isfinite(facts.l2):
            update += f", shortened to L2 norm {facts.l2:g}"
        if facts.denominator != "count":
            update += ", times its weight"
    release = words(table(record.spec, "evaluation").get("release"))
    metrics = {
        "per-site": "; the counts behind each site's metrics",
        "sum": "; the counts behind each site's metrics, of which only the sum is released",
    }.get(release, "; no metrics of any site")
    counts = "" if facts.is_private else "; each site's weight, number of rows and training loss"
    return update + counts + metrics


def _model(facts: Facts) -> str:
    if facts.is_private:
        return (
            f"the model, with Gaussian noise of multiplier {facts.noise_multiplier:g} in the total "
            "of each round"
        )
    return "the model; without noise, it may show whether a particular row was trained on"


def _changes(before: Facts, after: Facts) -> str:
    """Return what a step changed of the facts, in words."""
    said = list[str]()
    if after.l2 != before.l2 and math.isfinite(after.l2):
        said.append(f"L2 norm ≤ {after.l2:g}")
    if after.linf != before.linf and after.linf != after.l2:
        said.append(f"each coordinate within ±{after.linf:g}")
    if after.denominator != before.denominator:
        by = "a public number" if after.denominator == "public" else "the sum of weights"
        said.append(f"weight ≤ {after.max_weight:g}; the total is divided by {by}")
    if after.noise_multiplier != before.noise_multiplier:
        stddev = after.noise_multiplier * after.l2
        said.append(f"noise of standard deviation {stddev:g} in each coordinate of the total")
    if after.visible != before.visible:
        said.append("the coordinator sees sums only")
    return "; ".join(said)


def _meaning(step: Step) -> str:
    """Return our words for a step, or the first sentence of its own documentation."""
    if step.name in _MEANINGS:
        return _MEANINGS[step.name](dict(step.settings()))
    text = (inspect.getdoc(type(step)) or "").split("\n\n")[0].replace("\n", " ")
    return text.replace("``", "").split(". ")[0].rstrip(".") + "."


def _weight(step: Table) -> str:
    by, cap = words(step.get("by")), number(step.get("cap"))
    if by == "uniform":
        return "Every client counts alike."
    counts = f"A client counts by its number of {by}"
    return f"{counts}; {cap:g} or more count alike." if cap else f"{counts}, without a cap."


def _clip(step: Table) -> str:
    return f"At the client, an update longer than {_plain(step.get('norm'))} is shortened to that."


def _noise(_: Table) -> str:
    return (
        "The coordinator adds Gaussian noise to the total: it protects against those who see the "
        "model, not against the coordinator."
    )


def _sum(_: Table) -> str:
    return "Shares are added exactly, as integers: the order of arrival changes no bit."


_MEANINGS: dict[str, Callable[[Table], str]] = {
    "weight": _weight,
    "clip": _clip,
    "gaussian_noise": _noise,
    "sum": _sum,
}
