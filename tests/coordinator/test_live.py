"""What follows from an event is seen by nobody before the event is durable."""

import sqlite3
import threading
import time
from contextlib import closing

import pytest
from tests.coordinator.service import spec_of
from tests.e2e.deployed import until

from hanse.config.specification import layout_json, read_layout, read_spec
from hanse.coordinator.blobs import BlobStore
from hanse.coordinator.journal import Journal
from hanse.coordinator.live import LiveRun
from hanse.coordinator.spool import Spool
from hanse.core.events import Absorbed, Concluded, Judged, Opened

SPEC = spec_of("ada", "bob")
MODELS = ["a" * 64, "b" * 64]


@pytest.fixture
def run(tmp_path):
    read = read_spec(SPEC.canonical, read_layout(layout_json(SPEC.layout)))
    with closing(Journal.open(tmp_path / "journal")) as journal:
        spool = Spool(tmp_path / "spool")
        found = LiveRun(
            "tiny-1",
            read,
            MODELS[0],
            journal,
            BlobStore(tmp_path / "blobs"),
            spool,
            lambda *_: None,
        )
        yield found
        spool.close()


def ready(run):
    for site in ("ada", "bob"):
        run.answer((site, 0, "prepare"), {"accepted": True, "fingerprint": "f"})


def trained(run):
    ready(run)
    run.record(Opened(1, {}, 1.0))
    for site in ("ada", "bob"):
        run.answer((site, 1, "train"), {"refused": "no"})


def absorbed(run):
    trained(run)
    run.record(Absorbed(1, MODELS[1], "", {"norm": 1.0}, 2.0))
    for site in ("ada", "bob"):
        run.answer((site, 1, "evaluate"), {"refused": "no"})


@pytest.mark.parametrize(
    ("before", "event"),
    [
        (ready, Opened(1, {}, 3.0)),
        (trained, Absorbed(1, MODELS[1], "", {"norm": 1.0}, 3.0)),
        (absorbed, Judged(1, {"evaluation": {"pooled": {"loss": 1.0}}}, 3.0)),
        (ready, Concluded("stopped", "stopped by anna", 3.0)),
    ],
    ids=["opened", "absorbed", "judged", "concluded"],
)
def test_nobody_sees_what_the_coordinator_finds_before_it_is_durable(run, tmp_path, before, event):
    def seen():
        asked = [run.assignments(site) for site in ("ada", "bob")]
        return asked, run.readable, dict(run.history), run.course.outcome

    before(run)
    old = seen()
    with closing(sqlite3.connect(tmp_path / "journal", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # so nothing can be made durable
        thread = threading.Thread(target=run.record, args=(event,))
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
        assert seen() == old
        other.execute("ROLLBACK")
    thread.join(10)
    assert not thread.is_alive()
    until(lambda: seen() != old, 1.0)


def test_the_runs_time_goes_on_and_never_back_whatever_the_wall_clock_does(run, monkeypatch):
    before, clock = run.clock.now(), time.time
    for step in (-600.0, 600.0, -400 * 86400.0):
        monkeypatch.setattr(time, "time", lambda step=step: clock() + step)
        after = run.clock.now()
        assert before <= after < before + 5
        before = after
