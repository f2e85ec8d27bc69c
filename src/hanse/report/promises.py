"""What a RunSpec promises, in words: facts step by step, who sees what, what travels, and limits.

``hanse explain`` prints it before anything runs, and a run leaves it as ``promises.json``, which
its report shows: it is composed here only. What a step does is the first sentence of its
documentation, with its settings in place.
"""

import inspect
import math
import re
from collections.abc import Iterable
from dataclasses import asdict
from typing import Literal

import numpy as np

from hanse.core.canonical import Json
from hanse.core.facts import Facts, SharedNoise
from hanse.core.spec import RunSpec
from hanse.core.step import Step
from hanse.privacy import Rotate
from hanse.report.numerals import plural, size, whole
from hanse.report.privacy import privacy
from hanse.report.section import Section

MILLION = 1_000_000
SENTENCE_END = re.compile(r"\. +(?=[A-Z`])")  # not that of "e.g. this"
SETTING = re.compile(r"``(\w+)``")


def limits(*notes: str, simulated: bool = True) -> Section:
    """Return the section of limits: ``notes``, and what no simulation can protect."""
    title = "What this run does not protect against"
    if not simulated:
        return Section(title, notes=notes)
    one_hand = (
        "This is a simulation: the data of all sites are in one hand, so nothing is protected from "
        "whoever runs it, and nothing here shows what real sites would let pass. Its folder may "
        "hold counts, losses and metrics of each site: hand on the model, not the folder."
    )
    return Section(title, notes=(*notes, one_hand))


def promises(spec: RunSpec, *, known: bool = True, simulated: bool = True) -> tuple[Section, ...]:
    """Return what ``spec`` promises; if its model is not ``known``, sizes are per parameter.

    ``simulated``: the run is, or would be, a simulation.
    """
    return (
        _pipeline(spec),
        *privacy(spec, simulated=simulated),
        _sums(spec),
        _observers(spec),
        _bytes(spec, known=known),
        limits(*_limits(spec), simulated=simulated),
    )


def to_json(sections: Iterable[Section]) -> list[Json]:
    """Return ``sections`` as JSON takes them."""
    return [asdict(section) for section in sections]


def from_json(found: Json) -> tuple[Section, ...]:
    """Return the sections that :func:`to_json` wrote; ValueError for another shape."""
    return tuple(map(_section, _list(found)))


def _section(found: Json) -> Section:
    match found:
        case {"title": str(title), "columns": columns, "rows": rows, "notes": notes}:
            return Section(title, _texts(columns), tuple(map(_texts, _list(rows))), _texts(notes))
        case _:
            raise ValueError(f"{found!r:.80} is no section of promises")


def _texts(found: Json) -> tuple[str, ...]:
    return tuple(map(str, _list(found)))


def _list(found: Json) -> list[Json]:
    match found:
        case [*listed]:
            return listed
        case _:
            raise ValueError(f"{found!r:.80} is no list")


def number(value: object) -> str:
    """Return a setting as one would write it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def often(every: int) -> str:
    """Return when something happens that happens ``every`` so many rounds."""
    return "every round" if every == 1 else f"every {every} rounds and after the last"


def _pipeline(spec: RunSpec) -> Section:
    wire = spec.bound.facts
    rows = [
        (_name(step), _purpose(step), "; ".join(_changes(before, after, wire)) or "as before")
        for step, before, after in spec.bound.trace
    ]
    return Section(
        "Pipeline, in the order in which it is applied",
        ("step", "what it does", "what then holds of one client's share"),
        tuple(rows),
    )


def _name(step: Step) -> str:
    settings = {key: value for key, value in step.settings().items() if key != "step"}
    said = ", ".join(f"{key} = {number(value)}" for key, value in settings.items())
    return f"{step.name} ({said})" if said else step.name


def _purpose(step: Step) -> str:
    """Return the first sentence of the step's documentation, its settings as they are.

    A clause (behind a semicolon) about a setting that is not set is left out.
    """
    text = (inspect.getdoc(type(step)) or "").split("\n\n")[0].replace("\n", " ")
    clauses = SENTENCE_END.split(text)[0].rstrip(".").split("; ")
    said = "; ".join(clause for clause in clauses if not _names_what_is_unset(clause, step))
    settings = {key: number(value) for key, value in step.settings().items()}
    said = SETTING.sub(lambda found: settings.get(found[1], found[1]), said)
    return re.sub(r":\w+:`([^`]*)`", r"\1", said)


def _names_what_is_unset(clause: str, step: Step) -> bool:
    return any(getattr(step, name, name) is None for name in SETTING.findall(clause))


def _changes(before: Facts, after: Facts, wire: Facts) -> list[str]:
    """Return in words what a step changed about the facts; noise is scaled to those on ``wire``."""
    said = list[str]()
    if math.isfinite(after.l1) and math.isinf(before.l1):
        return [
            f"integers, in steps of {1 / after.scale:.3g}",
            f"L2 norm ≤ {after.l2:.6g} steps ({after.l2 / after.scale:.4g})",
            f"L1 norm ≤ {after.l1:.3g} steps",
        ]
    if f"{after.l2:g}" != f"{before.l2:g}":
        said.append("no L2 bound" if math.isinf(after.l2) else f"L2 norm ≤ {after.l2:g}")
    if after.linf not in (before.linf, after.l2):
        said.append(f"each |coordinate| ≤ {after.linf:g}")
    if (after.max_weight, after.capped, after.denominator) != (
        *(before.max_weight, before.capped),
        before.denominator,
    ):
        said.append(_weighting(after))
    if after.noise_multiplier != before.noise_multiplier:
        stddev = wire.total_multiplier * wire.l2 / wire.scale
        said.append(f"noise of standard deviation {stddev:g} in each coordinate of the total")
    if after.local_multiplier != before.local_multiplier:
        stddev = after.local_multiplier * before.l2 / before.scale
        said = [f"noise of standard deviation {stddev:g} in each coordinate of the share"]
    if after.shared is not None and before.shared is None:
        said = _shared(after.shared, after.scale)
    if after.visible != before.visible:
        said.append("the coordinator sees only sums" if after.visible == "sum" else "")
    if after.domain != before.domain:
        said.append(f"numbers are {after.domain}")
    if after.bits != before.bits:
        said.append(f"{after.bits} bits per coordinate")
    if after.memory and not before.memory:
        said.append("the client remembers something until its next round")
    return [part for part in said if part]


def _shared(noise: SharedNoise, scale: float) -> list[str]:
    """Return in words how much noise a share and a total have, in units of the model."""
    own, many = math.sqrt(noise.variance) / scale, plural(noise.honest, "honest client")
    return [
        f"noise of standard deviation {own:.4g} in each coordinate of the share",
        f"{own * math.sqrt(noise.honest):.4g} in a total of {many}",
    ]


def _weighting(facts: Facts) -> str:
    largest = whole(facts.max_weight)
    weight = "weight ≤ 1" if facts.capped else f"weight ≤ {largest}, which is no cap"
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
    rows: list[Cells] = [
        ("a site's data", "no", "no", "no"),
        _sight_of_updates(spec.bound.facts),
        *_sight_of_counts(spec),
        *_sight_of_evaluation(spec),
        ("who took part, was refused or failed", "each round", "no", "no"),
        ("the model", "every round", "every round that asks them", "at the end"),
    ]
    return Section(
        "Who sees what, once these are real sites",
        ("", "coordinator", "other sites", "whoever gets the model"),
        tuple(rows),
    )


def _sight_of_updates(facts: Facts) -> Cells:
    if facts.visible == "sum":
        return ("a site's update", "only inside a sum", "only inside the model", "only inside it")
    if facts.local_multiplier:
        inside = "only inside the model"
        return ("a site's update", "each one, under its own noise", inside, inside)
    if facts.shared is not None:
        inside = "only inside the model, under all noise"
        return ("a site's update", "each one, under its share of the noise", inside, inside)
    trained = ", trained under noise" if facts.example_multiplier else ""
    form = "as it is" if math.isinf(facts.l2) else f"clipped to norm {facts.l2:g}"
    inside = "only inside the model"
    if facts.is_private:
        inside += ", under noise"
    weighted = ", times its weight" if facts.denominator != "count" else ""
    return ("a site's update", f"each one{trained}, {form}{weighted}", inside, inside)


def _sight_of_counts(spec: RunSpec) -> list[Cells]:
    names = [scalar.name for scalar in spec.bound.schema]
    said = {"seen": "examples seen", "loss": "training loss", "below": "whether it was clipped"}
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
    counts = f"each site's counts, {often(evaluation.every)}"
    if evaluation.release == "per-site":
        return [(what, counts, "no", "no")]
    return [(what, f"{counts}; it hands on their sum only", "no", "no")]


def _limits(spec: RunSpec) -> list[str]:
    facts, notes = spec.bound.facts, list[str]()
    private = spec.local.privacy
    rows = "persons" if private is not None and private.unit == "person" else "rows"
    if facts.visible == "each":
        before = ", before the noise" if facts.noise_multiplier else ""
        before = ", under its own noise" if facts.is_noised_by_clients else before
        if facts.example_multiplier and not facts.is_private:
            before = ", trained under noise"
        notes.append(
            f"The coordinator sees each site's update of each round{before}. Updates can be turned "
            "back into data, above all those of small batches."
        )
    if facts.local_multiplier:
        notes.append(
            f"Each client's noise (multiplier {facts.local_multiplier:g}, per round) protects it "
            "against everybody, by as much as ε says and no more."
        )
    elif facts.shared is not None:
        notes.append(
            f"The noise is enough in a total only, where that of {facts.shared.honest} clients "
            "comes together. Toward the coordinator, which sees each share while sums are plain, "
            "it is as little as its ε says."
        )
    elif facts.is_private:
        notes.append(
            f"The noise (multiplier {facts.noise_multiplier:g}, per {facts.unit} and round) "
            "protects a client only against those who see the models and not its update."
        )
    elif facts.example_multiplier == 0:
        notes.append(
            "There is no noise: the model and the totals may tell whether a single row of data was "
            "trained on, and what stands in it."
        )
    if facts.example_multiplier:
        notes.append(
            f"The noise in training (multiplier {facts.example_multiplier:g}, per step) "
            f"hides single {rows} against everybody, by as much as ε says and no more. What is "
            "true of many rows of a site, and whom it treats or serves at large, it does not hide."
        )
    return notes


def _bytes(spec: RunSpec, *, known: bool) -> Section:
    item = np.dtype(spec.layout.dtype).itemsize
    integers = spec.bound.scalars_size
    if known:
        extras = sum(count * 8 for count in spec.bound.extras.values())
        up = spec.bound.coordinates * item + extras + integers * 8
        rows = [
            ("up", size(up) + (f", of which {integers} integers" if integers else "")),
            ("down", size(spec.layout.size * item)),
            ("up, an evaluation", size(spec.tally.scalars_size * 8)),
        ]
        note = "Each tensor is padded to 64 bytes."
    else:
        more = f" + {integers * 8} B ({integers} integers)" if integers else ""
        rows = [
            ("up", f"{item} B × parameters{more}"),
            ("down", f"{item} B × parameters: {size(item * MILLION)} per million"),
            ("up, an evaluation", "8 B × (2 + the counts of the task's metrics; AUC has 2,048)"),
        ]
        note = "For a float32 model; --model imports the task and gives its exact size."
        if any(isinstance(step, Rotate) for step in spec.pipeline.steps):
            note += " What is rotated is filled up, by less than 4,096 numbers."
    if not spec.evaluation.every or spec.evaluation.release in ("none", "simulation"):
        rows = rows[:2]
    return Section("Bytes per client and round", (), tuple(rows), (note,))
