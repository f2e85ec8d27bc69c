"""A disk that is full for a while costs that while: no receipt is lost, nobody has to help (P9).

The home of a coordinator, or of a site, lies on a small file system of its own, which a ballast
fills to its last page at a moment that is drawn.
"""

import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.crash import unit, wide
from tests.crash.supervised import Supervised

import hanse
from hanse.config.parse import parse
from hanse.coordinator.history import History
from hanse.coordinator.reserve import LEAST
from hanse.errors import ConfigError
from hanse.net.account import fetch, submit

pytestmark = pytest.mark.timeout(600)
SEED = int(os.environ.get("HANSE_SEED", "5"))
SIZE, ROUNDS = "24m", 8
LATEST_S, FULL_S = 1.5, (0.5, 1.5)
BACK_S = 10.0
PIECES = (2**20, 2**16, 2**12)


@contextmanager
def small_disk(place: Path) -> Generator[None]:
    """Mount a small file system at a new folder; an error, not a skip, where that cannot be."""
    place.mkdir(parents=True)
    how = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(place)]
    subprocess.run(how, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path, seconds: float) -> None:
    """Take all that is free, and all that becomes free, then give it back."""
    ballast = os.open(place / "ballast", os.O_WRONLY | os.O_CREAT)
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            for size in PIECES:
                with suppress(OSError):
                    while os.write(ballast, bytes(size)) == size:
                        pass
            time.sleep(0.005)
    finally:
        os.close(ballast)
        (place / "ballast").unlink()


class Full:
    """Two federations' worth of state: where the small disk is, and the undisturbed digest."""

    def __init__(self, supervised: Supervised, place: Path) -> None:
        self.supervised, self.place = supervised, place
        supervised.end(id := supervised.submit(ROUNDS, "wide"))
        self.digest = hanse.simulate(supervised.app / "wide.toml").model_digest
        supervised.check(id, self.digest)
        self.journal = supervised.federation.home.folder / "journal.db"
        self.slowest_s = 0.0

    def newest(self) -> int:
        """Return the number of the last event; 0 if the journal cannot be read now."""
        with suppress(ConfigError, OSError), History.of(self.journal) as history:
            found = history.newest()
            return found.seq if found else 0
        return 0

    def said(self) -> str:
        """Return the last that each process has said."""
        logs = (self.supervised.folder / "up").glob("*.log")
        return "\n".join(f"{path.name}:\n{path.read_text()[-800:]}" for path in logs)

    def moment(self, number: int) -> None:
        """Fill the disk at some moment of a run, from its submission on; the run ends well."""
        print(f"HANSE_SEED={SEED}, moment {number}")
        draw = random.Random(f"{SEED} {self.place.name} {number}")
        at, seconds = draw.uniform(0, LATEST_S), draw.uniform(*FULL_S)
        filling = threading.Thread(target=lambda: (time.sleep(at), fill(self.place, seconds)))
        filling.start()
        id = self.supervised.submit(ROUNDS, f"wide-{number}")
        filling.join()
        before, freed = self.newest(), time.monotonic()
        while not (self.newest() > before or self.supervised.has_ended(id)):
            assert time.monotonic() < freed + BACK_S, f"nothing goes on: {self.said()}"
            time.sleep(0.05)
        self.slowest_s = max(self.slowest_s, time.monotonic() - freed)
        self.supervised.end(id)
        self.supervised.check(id, self.digest)

    def check(self) -> None:
        """See that the journal is whole, and has each event of which a site has a receipt."""
        with History.of(self.journal) as history:
            hashes = {row.hash[:12] for row in history.rows()}
        for site in unit.SITES:
            log = (self.supervised.federation.site_home(site).folder / "log.jsonl").read_text()
            entries = {part[:12] for part in log.split(": entry ")[1:]}
            assert entries <= hashes


@pytest.fixture(scope="module", params=["coordinator", "sites/west"])
def full(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    place = folder / "up" / request.param
    with small_disk(place), Supervised(folder, wide) as supervised:
        yield Full(supervised, place)


def test_a_full_disk_costs_the_time_that_it_is_full(full):
    for number in range(3):
        full.moment(number)
    print(f"{len(full.supervised.deaths)} deaths, went on within {full.slowest_s:.1f} s")
    full.check()


def test_a_coordinator_whose_disk_is_full_still_answers_and_says_so(tmp_path):
    place = tmp_path / "up" / "coordinator"
    with small_disk(place), Supervised(tmp_path, unit) as supervised:
        supervised.end(done := supervised.submit(2))
        held = place / "reserve"
        assert held.stat().st_size == LEAST
        under_way = supervised.submit(unit.MOST)
        (place / "ballast").write_bytes(bytes(shutil.disk_usage(place).free - LEAST // 2))
        wait_for(lambda: not held.exists(), "the reserve is not given up")
        before = len(supervised.deaths)
        supervised.kill("coordinator")
        wait_for(lambda: len(supervised.deaths) > before, "it does not die")
        wait_for(lambda: supervised.told(done), "it does not start on a full disk")
        assert supervised.told(done)["outcome"] == "done"
        (tmp_path / "fetched").mkdir()
        fetch(supervised.line(), done, tmp_path / "fetched")
        assert supervised.told(under_way)["why"] == [
            "the coordinator's disk is full: no run goes on until there is room"
        ]
        at = supervised.told(under_way)["round"]
        with pytest.raises(ConfigError, match="disk is full"):
            submit(supervised.line(), parse(supervised.app / "unit.toml").load())
        time.sleep(1.0)
        assert supervised.told(under_way)["round"] == at < unit.MOST
        (place / "ballast").unlink()
        supervised.end(under_way)
        supervised.check(under_way, hanse.simulate(supervised.app / "unit.toml").model_digest)
        with History.of(place / "journal.db") as history:
            kinds = [entry.kind for entry in history.read("registry")]
        assert [kind for kind in kinds if "disk" in kind] == ["disk_full", "disk_freed"]


def wait_for(holds, what: str) -> None:
    until = time.monotonic() + BACK_S
    while not holds():
        assert time.monotonic() < until, what
        time.sleep(0.05)


@pytest.mark.torture
def test_a_full_disk_costs_the_time_that_it_is_full_at_any_moment(full):
    for number in range(3, 33):
        full.moment(number)
    print(f"{len(full.supervised.deaths)} deaths, went on within {full.slowest_s:.1f} s")
    full.check()
