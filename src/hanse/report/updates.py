"""What travelled: bytes up and down, the lengths of updates, and how often the clip fired."""

from collections.abc import Sequence
from dataclasses import dataclass

from hanse.report.folder import Record, Round, number, rows, table
from hanse.report.numerals import percent, plural, size, whole
from hanse.report.series import Chart, Series, last_round, per_round


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of all rounds of one run, as text."""

    up: str
    down: str
    per_report: str
    per_asked: str


def traffic(record: Record) -> Traffic | None:
    """Return the bytes of a run, None where none were counted."""
    up, down = (sum(getattr(row, way) for row in record.history) for way in ("up", "down"))
    reports = sum(len(row.counted) + len(row.refused) for row in record.history)
    asked = sum(row.cohort for row in record.history)
    if not up + down:
        return None
    return Traffic(
        up=size(up),
        down=size(down),
        per_report=size(up / reports if reports else None),
        per_asked=size(down / asked if asked else None),
    )


def clip_norm(record: Record) -> float | None:
    """Return the norm of the pipeline's clip, None without one."""
    steps = [table(step) for step in rows(record.spec.get("pipeline"))]
    return next((number(s.get("norm")) for s in steps if s.get("step") == "clip"), None)


def charts(records: Sequence[Record]) -> list[Chart]:
    """Return the charts of lengths and of the clip."""
    last, norm = last_round(records), clip_norm(records[0])
    lengths = [
        Series("longest", per_round(records, lambda r: r.longest), "c1"),
        Series("total", per_round(records, lambda r: r.norm), "c0", strong=True),
    ]
    shares = Series("clipped", per_round(records, _share), "c1")
    fired = [shares] if any(share for _, share in shares.known) else []
    found = [
        Chart("L2 norm of updates", lengths, last, ("clip", norm) if norm else None, True),
        Chart("share of updates that the clip shortened, %", fired, last, None, True),
    ]
    known = [(chart, [s for s in chart.series if s.known]) for chart in found]
    return [
        Chart(c.title, series, c.rounds, c.reference, c.from_zero) for c, series in known if series
    ]


def clip_in_words(records: Sequence[Record]) -> str:
    """Say how often the clip fired, nothing where it is not known."""
    told = [row for record in records for row in record.history if row.clipped is not None]
    counted = sum(len(row.counted) for row in told)
    norm = clip_norm(records[0])
    if norm is None or not counted:
        return ""
    fired = sum(row.clipped or 0 for row in told)
    return (
        f"The clip at L2 norm {norm:g} shortened {whole(fired)} of {plural(counted, 'update')}"
        f" ({percent(fired, counted)})."
    )


def _share(row: Round) -> float | None:
    if row.clipped is None or not row.counted:
        return None
    return 100 * row.clipped / len(row.counted)
