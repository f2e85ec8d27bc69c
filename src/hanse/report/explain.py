"""What a run promises, in words, before anything runs: the run itself, and what its spec promises.

Where the model is unknown (its framework is not installed, or nobody asked), sizes are given per
parameter.
"""

from hanse.config.runfile import RunFile
from hanse.core.samplers import SamplingLaw
from hanse.core.spec import RunSpec
from hanse.report.folder import Folder
from hanse.report.numerals import plural
from hanse.report.promises import number, often, promises
from hanse.report.section import Section
from hanse.report.spent import so_far

LISTED_SITES = 8


def explain(file: RunFile, spec: RunSpec | None = None) -> tuple[Section, ...]:
    """Return the sections of an explanation; with ``spec``, the bound one, sizes are exact."""
    known = spec is not None
    spec = spec or file.sketch
    return (_run(file, spec, known=known), *promises(spec, known=known))


def explain_folder(folder: Folder) -> tuple[Section, ...]:
    """Return what a run has spent so far, and what it promised when it began."""
    spent = so_far(folder)
    return (*([] if spent is None else [spent]), *folder.first.promises)


ENGINES = {
    "batched": "batched: simulated clients train many at once, with bits of their own",
    "auto": "auto: simulated clients train one by one or many at once, as is faster",
}


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
    if file.engine != "exact":
        rows.append(("engine", ENGINES[file.engine]))
    if spec.faults:
        rows.append(("faults, on purpose", _settings("", dict(spec.faults))))
    return Section(f"Run {file.name}", (), tuple(rows))


def _clients(file: RunFile) -> str:
    if file.split is not None:
        how = f"one data set split by {file.split.name}"
        if file.split.partitioner is None:
            how = "each with data of its own"
        return f"{file.split.clients:,} simulated, {how}"
    listed = ", ".join(file.sites[:LISTED_SITES])
    return f"{len(file.sites)} sites: {listed}{', …' if len(file.sites) > LISTED_SITES else ''}"


def _strategy(file: RunFile) -> dict[str, object]:
    server = {key: value for key, value in file.strategy.server.settings().items() if key != "name"}
    correction = file.strategy.correction
    named: dict[str, object] = {f"server {key}": value for key, value in server.items()}
    return named if correction is None else {"mu": correction.mu, **named}


def _settings(name: str, settings: dict[str, object]) -> str:
    said = ", ".join(f"{key} {number(value)}" for key, value in settings.items())
    return ": ".join(part for part in (name, said) if part)


def _local(file: RunFile) -> str:
    local = file.local
    size = "all its data at once" if local.batch_size is None else f"batches of {local.batch_size}"
    amount = plural(local.steps, "step") if local.steps else plural(local.epochs, "epoch")
    rate = "" if local.optimizer == "task" else f", lr {local.lr:g}"
    said = f"{local.optimizer}{rate}; {amount} of {size}"
    if local.privacy is None:
        return said
    private = local.privacy
    unit, of = ("row", "") if private.unit == "example" else ("person", "all its rows together ")
    if private.rows_per_person is not None:
        of = f"at most {private.rows_per_person} of its rows, together "
    return (
        f"{local.optimizer}{rate}; {amount} by DP-SGD: each {unit} with probability "
        f"{private.sampling_rate:g}, {of}clipped to {private.clip:g}, noise of multiplier "
        f"{private.noise_multiplier:g}, divided by {local.batch_size}"
    )


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
    when = often(evaluation.every)
    told = {
        "per-site": "each site's metric counts leave it",
        "sum": "only the sum over sites is released",
        "simulation": "measured by the simulator beside the protocol",
        "none": "",
    }[evaluation.release]
    at_sites = f"{when}; {told}" if evaluation.every and told else "none at the sites"
    return at_sites if file.central is None else f"{at_sites}; central on {file.central}"
