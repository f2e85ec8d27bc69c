"""The report's sentences: short, with numbers, and no claim larger than the seeds allow."""

from collections.abc import Sequence

from hanse.report.folder import Folder, Record, number, table, whole_number, words
from hanse.report.numerals import Interval, measure, plural
from hanse.report.participation import aborted, in_words, totals
from hanse.report.results import mean_of_sites, paired
from hanse.report.series import central_values, final, metrics_of, pooled_values, shown

_STRATEGIES = {
    "fedavg": "FedAvg",
    "fedsgd": "FedSGD",
    "fedprox": "FedProx",
    "fedavgm": "FedAvgM",
    "fedadagrad": "FedAdagrad",
    "fedadam": "FedAdam",
    "fedyogi": "FedYogi",
}


def strategy(record: Record) -> str:
    """Return the strategy with the setting that tells it from its neighbours."""
    found = table(record.spec, "strategy")
    mu = number(table(found, "correction").get("proximal"))
    name = words(found.get("name"))
    name = _STRATEGIES.get(name, name)
    return f"{name} (μ = {mu:g})" if name and mu is not None else name


def headline(folder: Folder) -> list[str]:
    """Return the facts under the title."""
    record = folder.first
    clients, parameters = (
        _clients(record),
        whole_number(table(record.spec, "model").get("parameters")),
    )
    facts = [
        plural(clients, "client" if record.spec.get("population") else "site") if clients else "",
        plural(_rounds(record), "round") if _rounds(record) else "",
        strategy(record),
        plural(parameters, "parameter") if parameters else "",
        _seeds(folder),
        "simulation",
    ]
    return [fact for fact in facts if fact]


def summary(folder: Folder) -> list[str]:
    """Return the paragraphs that say it all: what was done, and how it compares."""
    done = [_setting(folder), _reached(folder), _took_part(folder.records)]
    paragraphs = (" ".join(filter(None, said)) for said in (done, _beside(folder)))
    return [said.replace(" ± ", "\u00a0±\u00a0") for said in paragraphs if said]


def unfinished(record: Record) -> str:
    """Say how far a run came that did not reach its last round."""
    planned, done = whole_number(record.spec.get("rounds")), _rounds_done(record)
    if planned is None or done >= planned:
        return ""
    return f"The run is not complete: {done} of {plural(planned, 'round')} are recorded."


def _setting(folder: Folder) -> str:
    record = folder.first
    clients, rounds, name = _clients(record), _rounds(record), strategy(record)
    if not (clients and rounds):
        return ""
    who = plural(clients, "client" if record.spec.get("population") else "site")
    with_name = f" with {name}" if name else ""
    return (
        f"In this simulation {who} trained one model{with_name} in {plural(rounds, 'round')}; "
        f"the model travelled, the rows did not. {unfinished(record)}".strip()
    )


def _reached(folder: Folder) -> str:
    """Say what the model is worth on the test data of all sites together, or on central data."""
    seeds = len(folder.records)
    how = f" (mean of {seeds} seeds ± half-width of the 95 % t-interval)" if seeds > 1 else ""
    for where, read in (
        ("On the held-out data of all sites together", pooled_values),
        ("On the central test data", central_values),
    ):
        told = [(m, final(folder.records, m, read)) for m in metrics_of(folder.records)]
        known = [f"{shown(m)} {value}" for m, value in told if value.mean is not None]
        if known:
            return f"{where} it reaches {_list(known)}{how}."
    return ""


def _beside(folder: Folder) -> list[str]:
    """Compare with local-only and pooled training by the first metric that all three have."""
    for metric in metrics_of(folder.records):
        means = mean_of_sites(folder, metric)
        if {"local", "federated", "pooled"} <= {k for k, v in means.items() if v.mean is not None}:
            return _three(folder, metric, means)
    return []


def _three(folder: Folder, metric: str, means: dict[str, Interval]) -> list[str]:
    values = (
        f"Averaged over the sites, {shown(metric)} is {means['local']} for models trained at one "
        f"site only, {means['federated']} for the federated model, and {means['pooled']} for a "
        "model trained on the pooled rows."
    )
    parts = [_gap(paired(folder, metric, kind), kind) for kind in ("local", "pooled")]
    if len(folder.records) < 2:
        parts.append(
            "This is one seed, so the differences carry no interval: repeat with --seeds 5 before "
            "relying on small ones."
        )
    return [values, *(part for part in parts if part)]


def _gap(gap: Interval | None, kind: str) -> str:
    if gap is None or gap.mean is None:
        return ""
    other = "local only" if kind == "local" else kind
    side = "above" if gap.mean >= 0 else "below"
    spread = "" if gap.half is None else f" ± {measure(gap.half)}"
    said = f"Federated is {measure(abs(gap.mean))}{spread} {side} {other}"
    if gap.holds_zero is None:
        return f"{said}."
    if gap.holds_zero:
        return f"{said}: smaller than the seed spread, so these runs do not tell the two apart."
    return f"{said}, more than the seed spread."


def _took_part(records: Sequence[Record]) -> str:
    found = totals(records)
    if not sum(found.values()):
        return ""
    lost = sum(len(aborted(record)) for record in records)
    more = f" {plural(lost, 'round')} {'was' if lost == 1 else 'were'} aborted." if lost else ""
    return in_words(found) + more


def _clients(record: Record) -> int:
    return whole_number(table(record.spec, "clients").get("count")) or 0


def _rounds(record: Record) -> int:
    return whole_number(record.spec.get("rounds")) or _rounds_done(record)


def _rounds_done(record: Record) -> int:
    return max((row.number for row in record.history), default=0)


def _seeds(folder: Folder) -> str:
    seeds = [record.seed for record in folder.records if record.seed is not None]
    if not seeds:
        return ""
    numbers = ", ".join(map(str, seeds[:10])) + (" …" if len(seeds) > 10 else "")
    return f"seed {numbers}" if len(seeds) == 1 else f"{len(seeds)} seeds ({numbers})"


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
