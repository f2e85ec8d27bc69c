"""What a run promises, in words, before anything runs: its facts, who sees what, and what travels.

Composed from the spec alone. Where the model is unknown (its framework is not installed, or nobody
asked), sizes are given per parameter.
"""

import inspect
import math
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hanse.config import RunFile
from hanse.core.facts import Facts
from hanse.core.samplers import SamplingLaw
from hanse.core.spec import RunSpec
from hanse.core.step import Step

MILLION = 1_000_000
LISTED_SITES = 8


@dataclass(frozen=True, slots=True)
class Section:
    """A titled table with notes below it; ``columns`` may be empty."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def explain(file: RunFile, spec: RunSpec | None = None) -> tuple[Section, ...]:
    """Return the sections of an explanation; with ``spec``, the bound one, sizes are exact."""
    known = spec is not None
    spec = spec or file.sketch
    return (
        _run(file, spec, known=known),
        _pipeline(spec),
        _sums(spec),
        _observers(spec),
        _bytes(spec, known=known),
    )


def _run(file: RunFile, spec: RunSpec, *, known: bool) -> Section:
    rows = [
        ("task, data", f"{file.task}, {file.data}"),
        ("clients", _clients(file)),
        ("strategy", _settings(file.strategy.name, _strategy(file))),
        ("a client trains", _local(file)),
        ("rounds", f"{file.rounds}; each asks {_cohort(file, spec)}"),
        ("evaluation", _evaluation(file)),
        ("seed", str(file.seed)),
    ]
    if known:
        layout = spec.layout
        rows.append(("model", f"{layout.parameters:,} trainable parameters, {layout.dtype}"))
    if spec.faults:
        rows.append(("faults, on purpose", _settings("", dict(spec.faults))))
    return Section(f"Run {file.name}", (), tuple(rows))


def _clients(file: RunFile) -> str:
    if file.split is not None:
        return f"{file.split.clients:,} simulated, one data set split by {file.split.name}"
    listed = ", ".join(file.sites[:LISTED_SITES])
    return f"{len(file.sites)} sites: {listed}{', …' if len(file.sites) > LISTED_SITES else ''}"


def _strategy(file: RunFile) -> dict[str, object]:
    server = {key: value for key, value in file.strategy.server.settings().items() if key != "name"}
    correction = file.strategy.correction
    named: dict[str, object] = {f"server {key}": value for key, value in server.items()}
    return named if correction is None else {"mu": correction.mu, **named}


def _settings(name: str, settings: dict[str, object]) -> str:
    said = ", ".join(f"{key} {_number(value)}" for key, value in settings.items())
    return ": ".join(part for part in (name, said) if part)


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _local(file: RunFile) -> str:
    local = file.local
    size = "all its data at once" if local.batch_size is None else f"batches of {local.batch_size}"
    epochs = "1 epoch" if local.epochs == 1 else f"{local.epochs} epochs"
    rate = "" if local.optimizer == "task" else f", lr {local.lr:g}"
    end = "" if local.steps is None else f", at most {local.steps} steps"
    return f"{local.optimizer}{rate}; {epochs} of {size}{end}"


def _cohort(file: RunFile, spec: RunSpec) -> str:
    law: SamplingLaw = spec.sampler.law(file.clients)
    match law.kind:
        case "all":
            return f"all {file.clients:,} clients"
        case "fixed":
            return f"{spec.cohort:,} of {file.clients:,} clients, drawn without replacement"
        case _:
            return f"each client with probability {law.rate:g}"


def _evaluation(file: RunFile) -> str:
    evaluation = file.evaluation
    when = _often(evaluation.every)
    told = {
        "per-site": "each site's metric counts leave it",
        "sum": "only the sum over sites is released",
        "simulation": "measured by the simulator beside the protocol",
        "none": "",
    }[evaluation.release]
    at_sites = f"{when}; {told}" if evaluation.every and told else "none at the sites"
    return at_sites if file.central is None else f"{at_sites}; central on {file.central}"


def _often(every: int) -> str:
    return "every round" if every == 1 else f"every {every} rounds and after the last"


def _pipeline(spec: RunSpec) -> Section:
    rows = [
        (_name(step), _purpose(step), "; ".join(_changes(before, after)) or "as before")
        for step, before, after in spec.bound.trace
    ]
    return Section(
        "Pipeline, in the order in which it is applied",
        ("step", "what it does", "what then holds of one client's share"),
        tuple(rows),
    )


def _name(step: Step) -> str:
    settings = {key: value for key, value in step.settings().items() if key != "step"}
    said = ", ".join(f"{key} = {_number(value)}" for key, value in settings.items())
    return f"{step.name} ({said})" if said else step.name


def _purpose(step: Step) -> str:
    """Return the first sentence of the step's documentation, its settings as they are."""
    text = (inspect.getdoc(type(step)) or "").split("\n\n")[0].replace("\n", " ")
    settings = {key: _number(value) for key, value in step.settings().items()}
    text = re.sub(r"``(\w+)``", lambda found: settings.get(found[1], found[1]), text)
    text = re.sub(r":\w+:`([^`]*)`", r"\1", text)
    return text.split(". ")[0].rstrip(".")


def _changes(before: Facts, after: Facts) -> list[str]:
    """Return in words what a step changed about the facts."""
    said = list[str]()
    if after.l2 != before.l2:
        said.append("no L2 bound" if math.isinf(after.l2) else f"L2 norm ≤ {after.l2:g}")
    if after.linf != before.linf:
        said.append(f"each |coordinate| ≤ {after.linf:g}")
    if (after.max_weight, after.capped, after.denominator) != (
        *(before.max_weight, before.capped),
        before.denominator,
    ):
        said.append(_weighting(after))
    if after.noise_multiplier != before.noise_multiplier:
        stddev = after.noise_multiplier * after.l2
        said.append(f"the total has noise of standard deviation {stddev:g} in each coordinate")
    if after.visible != before.visible:
        said.append("the coordinator sees only sums" if after.visible == "sum" else "")
    if after.domain != before.domain:
        said.append(f"numbers are {after.domain}")
    if after.bits != before.bits:
        said.append(f"{after.bits} bits per coordinate")
    if after.memory and not before.memory:
        said.append("the client remembers something until its next round")
    return [part for part in said if part]


def _weighting(facts: Facts) -> str:
    weight = "weight ≤ 1" if facts.capped else f"weight ≤ {facts.max_weight:g}, which is no cap"
    by = {
        "count": "the number of clients",
        "observed": "the sum of the weights counted",
        "public": "a public number",
    }[facts.denominator]
    return f"{weight}; the total is divided by {by}"


def _sums(spec: RunSpec) -> Section:
    grid = spec.bound.grids["model"]
    rows = (
        ("grid", f"multiples of 2^-{grid.exponent} ({grid.step:.3g})"),
        ("limit", f"|coordinate| ≤ {grid.limit:g}; a share beyond it is refused"),
        ("largest cohort", f"{grid.cohort:,}: that many shares cannot overflow 63 bits"),
    )
    note = "The total has the same bits for any order of arrival and any number of workers."
    return Section("Exact sums", (), rows, (note,))


Cells = tuple[str, str, str, str]


def _observers(spec: RunSpec) -> Section:
    facts = spec.bound.facts
    rows: list[Cells] = [
        ("a site's data", "no", "no", "no"),
        _sight_of_updates(facts),
        *_sight_of_counts(spec),
        *_sight_of_evaluation(spec),
        ("the model", "every round", "every round that asks them", "at the end"),
    ]
    return Section(
        "Who sees what, once these are real sites",
        ("", "coordinator", "other sites", "whoever gets the model"),
        tuple(rows),
        tuple(_privacy_notes(facts)),
    )


def _sight_of_updates(facts: Facts) -> Cells:
    if facts.visible == "sum":
        return ("a site's update", "only inside a sum", "only inside the model", "only inside it")
    form = "as it is" if math.isinf(facts.l2) else f"clipped to norm {facts.l2:g}"
    inside = "only inside the model"
    if facts.is_private:
        inside += ", under noise"
    weighted = ", times its weight" if facts.denominator != "count" else ""
    return ("a site's update", f"each one, {form}{weighted}", inside, inside)


def _sight_of_counts(spec: RunSpec) -> list[Cells]:
    names = [scalar.name for scalar in spec.bound.schema]
    said = {"seen": "examples seen", "loss": "training loss"}
    listed = ", ".join(said.get(name, name) for name in names)
    who: Literal["each one", "only sums"] = (
        "each one" if spec.bound.facts.visible == "each" else "only sums"
    )
    rows: list[Cells] = [(f"a site's {listed}", who, "no", "no")] if names else []
    kept = [s.name for s in spec.training if s.name not in names]
    if kept:
        listed = ", ".join(said.get(name, name) for name in kept)
        rows.append((f"a site's {listed}", "no: stays at the site", "no", "no"))
    return rows


def _sight_of_evaluation(spec: RunSpec) -> list[Cells]:
    evaluation, what = spec.evaluation, "a site's test results"
    if not evaluation.every or evaluation.release == "none":
        return [(what, "no: there are none", "no", "no")]
    if evaluation.release == "simulation":
        return [(what, "no: only this simulation has them", "no", "no")]
    counts = f"each site's counts, {_often(evaluation.every)}"
    if evaluation.release == "per-site":
        return [(what, counts, "no", "no")]
    return [(what, f"{counts}; it hands on their sum only", "no", "no")]


def _privacy_notes(facts: Facts) -> list[str]:
    notes = list[str]()
    if facts.is_private:
        notes.append(
            f"Noise multiplier {facts.noise_multiplier:g}, per {facts.unit} and round. It protects "
            "a client only against those who see nothing but the model: the coordinator sees "
            "updates before the noise. ε is not computed yet."
        )
    else:
        notes.append(
            "There is no noise: the model and the totals may tell of single rows of data. "
            "Updates can be turned back into data, above all those of small batches."
        )
    notes.append(
        "In this simulation whoever runs it holds all data. The run's folder has what the "
        "coordinator sees, updates left out: hand on the model, not the folder."
    )
    return notes


def _bytes(spec: RunSpec, *, known: bool) -> Section:
    item = np.dtype(spec.layout.dtype).itemsize
    integers = spec.bound.scalars_size
    if known:
        extras = sum(size * 8 for size in spec.bound.extras.values())
        up = (spec.bound.start.coordinates or 0) * item + extras + integers * 8
        rows = [
            ("up", f"{size_of(up)}, of which {integers} integers"),
            ("down", size_of(spec.layout.size * item)),
            ("up, an evaluation", size_of(spec.tally.scalars_size * 8)),
        ]
        note = "Each tensor is padded to 64 bytes."
    else:
        more = f" + {integers * 8} B ({integers} integers)" if integers else ""
        rows = [
            ("up", f"{item} B × parameters{more}"),
            ("down", f"{item} B × parameters: {size_of(item * MILLION)} per million"),
            ("up, an evaluation", "8 B × (2 + the counts of the task's metrics; AUC has 2,048)"),
        ]
        note = "For a float32 model; --model imports the task and gives its exact size."
    if not spec.evaluation.every or spec.evaluation.release in ("none", "simulation"):
        rows = rows[:2]
    return Section("Bytes per client and round", (), tuple(rows), (note,))


def size_of(count: float) -> str:
    """Return a number of bytes as one would say it, in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError
