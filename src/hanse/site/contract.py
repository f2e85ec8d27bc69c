"""The dry run at a site, before round 1: would a run work here, and if not, what is to be done?

Each check is a row for the site's operator. What is in the rows stays at the site: others learn
yes or no (:func:`passed`). A run that passes can still fail: the model sees one batch, not all.
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from hanse.core.frames import model_frame, share_frame
from hanse.core.spec import RunSpec
from hanse.data.findings import findings
from hanse.data.schema import Schema
from hanse.data.table import read_csv
from hanse.errors import HanseError
from hanse.net.checks import Check
from hanse.site.verdict import Refusal

CLOCK_S = 300.0
"""Certificates and this site's own log tell the time; nothing else in a run looks at it."""
SPARE = 64 * 2**20


def passed(checks: Iterable[Check]) -> bool:
    """Return yes or no: all that may leave the site."""
    return all(check.ok for check in checks)


def check_policy(refusals: Iterable[Refusal]) -> list[Check]:
    """Return a row for each reason by which the site's policy refuses the run."""
    rows = [Check("policy", False, refusal.said, refusal.change) for refusal in refusals]
    return rows or [Check("policy", True, "the policy permits this run")]


def check_source(schema: Schema, path: Path) -> list[Check]:
    """Return the rows for the CSV file of a source: one for each finding, or that there is none."""
    name = f"source {schema.source}".strip()
    try:
        text = read_csv(path, ())
    except HanseError as error:
        return [_failed(name, error)]
    rows = [Check(name, False, found.said, found.fix) for found in findings(schema, text)]
    said = f"{len(text)} rows, {len(schema.columns)} columns as the app declares them"
    return rows or [Check(name, True, said)]


def check_batch(attempt: Callable[[], object]) -> Check:
    """Return the row for one batch through the model: ``attempt()`` raises HanseError if it fails.

    What the user's code raises is a TaskError by then (hanse.train.userland).
    """
    try:
        attempt()
    except HanseError as error:
        return _failed("model", error)
    return Check("model", True, "rows of the data fit the model, its loss and its metrics")


def space_needed(spec: RunSpec) -> int:
    """Return the bytes of disk that a run takes at a site: a model on its way in, the one before,
    the last one kept, a share on its way out and the one before it, and what two memories of the
    client may be.
    """
    share = share_frame(spec.bound).size
    memory = 2 * share if spec.bound.facts.memory else 0
    return 3 * model_frame(spec.layout).size + 2 * share + memory + SPARE


def check_disk(folder: Path, needed: int) -> Check:
    """Return the row for the disk under ``folder``, which exists."""
    free = shutil.disk_usage(folder).free
    said = f"{_mib(free)} free under {folder}, {_mib(needed)} needed"
    return Check("disk", free >= needed, said, "" if free >= needed else "free some, or move home")


def check_clock(ahead_s: float) -> Check:
    """Return the row for this machine's clock, ``ahead_s`` seconds ahead of the coordinator's."""
    off = "ahead of" if ahead_s > 0 else "behind"
    said = f"the clock is {abs(ahead_s):.0f} s {off} the coordinator's"
    ok = abs(ahead_s) <= CLOCK_S
    fix = "" if ok else "set it, here or there; certificates are valid for hours only"
    return Check("clock", ok, said, fix)


def _failed(name: str, error: HanseError) -> Check:
    return Check(name, False, str(error), error.hint)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
