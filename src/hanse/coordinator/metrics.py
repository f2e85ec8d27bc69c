"""What an operator's monitoring is told: counts, ages and sizes; nothing of the data, no secret."""

import os
import resource
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from hanse.coordinator.exposition import Metric, alone, by
from hanse.coordinator.home import CERTIFICATE
from hanse.coordinator.office import Office
from hanse.coordinator.why import AWAY_S, stage
from hanse.net.authority import certificate_expiry
from hanse.net.traffic import Traffic

STAGES = ("queued", "preparing", "between", "training", "summing", "evaluating")
OUTCOMES = ("done", "failed", "stopped")
ANSWERS = (
    "prepared", "declined", "reported", "refused", "failed", "late", "scored", "unscored",
    "acknowledged",
)  # fmt: skip
"""The kinds of events that are the taking of a site's answer (docs/protocol.md §10)."""


def measured(office: Office, traffic: Traffic) -> Iterator[Metric]:
    """Yield all that docs/how-to/operate.md lists. Reads the journal and the disk."""
    yield from _runs(office)
    yield from _sites(office)
    yield from _journal(office)
    yield from _line(traffic)
    yield from _machine(office)
    yield from _process()


def _runs(office: Office) -> Iterator[Metric]:
    records = [*office.runs.records.values()]
    states = Counter(record.outcome or stage(record.live) for record in records)
    lives = [record.live for record in records if record.outcome is None]
    under_way = {live.id: live.course for live in lives}
    yield Metric(
        *("hanse_runs", "gauge", "Runs, by stage or outcome."),
        by("state", {state: states[state] for state in (*STAGES, *OUTCOMES)}),
    )
    yield Metric(
        *("hanse_run_rounds_done", "gauge", "Rounds that are in the model of a run under way."),
        by("run", {run: course.round for run, course in under_way.items()}),
    )
    yield Metric(
        *("hanse_run_rounds", "gauge", "Rounds that a run under way is to have."),
        by("run", {run: course.spec.rounds for run, course in under_way.items()}),
    )


def _sites(office: Office) -> Iterator[Metric]:
    known = [name for name, member in office.registry.sites.items() if not member.revoked]
    away = {name: office.away_s(name) for name in sorted(known)}
    heard = {name: seconds for name, seconds in away.items() if seconds is not None}
    yield Metric("hanse_sites_known", "gauge", "Sites that are not revoked.", alone(len(known)))
    yield Metric(
        *("hanse_sites_on_line", "gauge", f"Sites heard of in the last {AWAY_S:.0f} s."),
        alone(sum(seconds <= AWAY_S for seconds in heard.values())),
    )
    yield Metric(
        "hanse_site_silent_seconds",
        "gauge",
        "Seconds since a site was heard of; left out if it was not since the start.",
        by("site", heard),
    )


def _journal(office: Office) -> Iterator[Metric]:
    office.tally.catch_up()
    kinds = office.tally.kinds
    yield Metric(
        *("hanse_journal_head_seq", "gauge", "Number of the journal's newest event."),
        alone(office.tally.head),
    )
    yield Metric(
        *("hanse_answers_total", "counter", "Answers of sites in the journal, by event."),
        by("event", {kind: kinds[kind] for kind in ANSWERS}),
    )


def _line(traffic: Traffic) -> Iterator[Metric]:
    yield Metric(
        *("hanse_received_bytes_total", "counter", "Bytes of requests, inside TLS."),
        alone(traffic.received),
    )
    yield Metric(
        *("hanse_sent_bytes_total", "counter", "Bytes of the bodies of responses."),
        alone(traffic.sent),
    )
    yield Metric(
        *("hanse_responses_total", "counter", "Responses, by status."),
        by("status", {str(status): n for status, n in sorted(traffic.responses.items())}),
    )


def _machine(office: Office) -> Iterator[Metric]:
    free = shutil.disk_usage(office.folder).free
    yield Metric(
        *("hanse_disk_free_bytes", "gauge", "Free bytes under the coordinator's folder."),
        alone(free),
    )
    yield Metric(
        *("hanse_disk_full", "gauge", "1 while no run goes on, since the disk is full."),
        alone(int(office.registry.disk_is_full)),
    )
    server = certificate_expiry((office.folder / CERTIFICATE).read_text())
    ends = {"server": server, "issuer": office.authority.certificate.not_valid_after_utc}
    now = datetime.now(UTC)
    yield Metric(
        *("hanse_certificate_expiry_seconds", "gauge", "Seconds until a certificate ends."),
        by("certificate", {name: (end - now).total_seconds() for name, end in ends.items()}),
    )


def _process() -> Iterator[Metric]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    yield Metric(
        *("process_resident_memory_bytes", "gauge", "Resident memory."),
        alone(pages * resource.getpagesize()),
    )
    yield Metric(
        *("process_cpu_seconds_total", "counter", "User and system time spent."),
        alone(time.process_time()),
    )
    yield Metric(
        *("process_open_fds", "gauge", "Open file descriptors."),
        alone(len(os.listdir("/proc/self/fd"))),
    )
