"""What happens when something dies, is slow, or raises: the cases of docs/benchmarks.md, once more.

    python benchmarks/deployed/kill.py               # five rounds of five seconds, two sites
    python benchmarks/deployed/kill.py --pause 1 --case "site killed"

Real processes, ended with SIGKILL in round 2. A supervisor starts what died again after a second,
as the systemd units do, and is all the help there is. Printed for each case: the outcome, seconds
from the kill until the run goes on, seconds that the run took longer than an undisturbed one,
whether the model has the same bits, and what ``hanse why`` or ``hanse status`` said meanwhile.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hanse.config.parse import parse
from hanse.coordinator.backup import backup, restore
from hanse.errors import ConfigError, HanseError
from hanse.net.account import fetch, submit
from hanse.up import Federation, _remove

SITES = ("north", "west")
ROUNDS = 5
APP = """
import time
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from hanse.core.layout import Layout
from hanse.train.local import Trained, training_scalars


@dataclass(frozen=True)
class Rows:
    values: np.ndarray

    @property
    def n(self):
        return len(self.values)


class Walk:
    metrics = ()
    layout = Layout.build("float32", [("w", (16,), "trainable")])

    def describe(self, seed):
        return self.layout, np.zeros(16, np.float32)

    def kernel(self):
        return self

    def identity(self):
        return "walk"

    def training_scalars(self):
        return training_scalars()

    def check(self, work, weight_by):
        pass

    @contextmanager
    def exactly(self, threads):
        yield "numpy"

    def prepare(self, dataset, turn):
        return Rows(dataset[0])

    def train(self, start, data, work, turn, local):
        time.sleep({pauses}[turn.client])
        step = np.random.default_rng([turn.seed, turn.round, len(turn.client)]).normal(size=16)
        counts = {{"examples": data.n, "steps": 1, "seen": data.n, "loss": 0}}
        return Trained(step.astype(np.float32), counts)

    def evaluate(self, vector, data, turn, local):
        return {{"examples": data.n, "loss": 0}}


task = Walk()


def data(site):
    {raising}
    values = np.zeros(8, np.float32)
    return (values, values > 0), (values, values > 0)
"""


@dataclass
class Lab:
    """A federation whose supervisor starts again what died, unless it is told not to."""

    folder: Path
    pauses: dict[str, float]
    raising: str = "pass"
    stays_dead: set[str] = field(default_factory=set)
    back_s: float = 1.0

    def __enter__(self) -> "Lab":
        self.app, up = self.folder / "app", self.folder / "up"
        self.app.mkdir()
        up.mkdir()
        self.write(self.raising)
        self.federation = Federation(up, dict.fromkeys(SITES, (self.app, {})))
        self.federation.__enter__()
        self.port = urlsplit(self.federation.account.url).port or 0
        self.leaving = False
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()
        return self

    def write(self, raising: str) -> None:
        (self.app / "app.py").write_text(APP.format(pauses=repr(self.pauses), raising=raising))

    def __exit__(self, *_: object) -> None:
        self.leaving = True
        self.watcher.join()
        self.federation.__exit__()
        _remove(self.folder / "up")

    def _watch(self) -> None:
        while not self.leaving:
            for name, process in [*self.federation.processes.items()]:
                if process.poll() is not None and name not in self.stays_dead:
                    time.sleep(self.back_s)
                    with suppress(ConfigError):
                        self.start(name)
            time.sleep(0.01)

    def start(self, name: str) -> None:
        if name == "coordinator":
            self.federation.start_coordinator(self.port)
        else:
            self.federation.start_site(name)

    def kill(self, name: str) -> None:
        os.kill(self.federation.processes[name].pid, signal.SIGKILL)

    def kill_job(self, site: str) -> None:
        pid = self.federation.processes[site].pid
        words = ["pgrep", "-P", str(pid), "-f", "hanse.site.job"]
        found = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
        os.kill(int(found[0]), signal.SIGKILL)

    def submit(self, more: str = "") -> str:
        top = {"task": "app:task", "data": "app:data", "name": "walk", "rounds": ROUNDS,
               "sites": [*SITES], "seed": 1}  # fmt: skip
        text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in top.items())
        (self.app / "walk.toml").write_text(f'{text}\n[evaluation]\nrelease = "none"\n{more}')
        return submit(self.federation.account.dial(), parse(self.app / "walk.toml").load())

    def told(self, id: str) -> Any:
        with suppress(HanseError):
            return self.federation.account.dial().request("GET", f"/v1/runs/{id}").json()
        return None

    def until(self, id: str, reached: Callable[[Any], bool], most_s: float = 300.0) -> Any:
        ends = time.monotonic() + most_s
        while time.monotonic() < ends:
            told = self.told(id)
            if told is not None and reached(told):
                return told
            time.sleep(0.05)
        raise TimeoutError(f"not in {most_s:g} s")

    def digest(self, id: str) -> str:
        into = self.folder / "fetched"
        into.mkdir(exist_ok=True)
        found = fetch(self.federation.account.dial(), id, into)
        return found.read.spec.layout.digest(found.vector)


@dataclass(frozen=True)
class Case:
    """``act`` befalls a run in its second round; ``helped``: what a human had to do."""

    name: str
    act: Callable[[Lab], None]
    more: str = ""
    is_slow: bool = False
    stays_dead: tuple[str, ...] = ()
    back_s: float = 1.0
    raising: str = "pass"
    helped: str = "nothing"


def lose_disk(lab: Lab) -> None:
    """Back up, lose the disk, and restore: what an operator does."""
    home = lab.federation.home
    backup(home, lab.folder / "backup")
    lab.stays_dead.add("coordinator")
    lab.kill("coordinator")
    time.sleep(0.1)
    shutil.rmtree(home.folder)
    restore(lab.folder / "backup", home)
    lab.stays_dead.discard("coordinator")


def nothing(lab: Lab) -> None:
    pass


DEADLINE = "[quorum]\ndeadline_s = {}\nminimum = 1\n"
CASES = (
    Case("coordinator killed", lambda lab: lab.kill("coordinator")),
    Case("coordinator's disk lost, restored from a backup", lose_disk, helped="hanse restore"),
    Case("site killed, back at once", lambda lab: lab.kill("west"), back_s=0.0),
    Case("site killed, back after 10 s", lambda lab: lab.kill("west"), back_s=10.0),
    Case("site killed, gone for good, a deadline", lambda lab: lab.kill("west"),
         more=DEADLINE, stays_dead=("west",)),
    Case("training process killed", lambda lab: lab.kill_job("west")),
    Case("one site 20 times slower", nothing, is_slow=True),
    Case("one site 20 times slower, a deadline", nothing, more=DEADLINE, is_slow=True),
    Case("app that raises at one site", nothing,
         raising="assert site.id != 'west', 'no such table'", helped="correct the app there"),
)  # fmt: skip


def calm(pause: float) -> tuple[float, str]:
    """Return the seconds and the model's digest of an undisturbed run."""
    with (
        tempfile.TemporaryDirectory(prefix="hanse-kill-") as name,
        Lab(Path(name), dict.fromkeys(SITES, pause)) as lab,
    ):
        began = time.monotonic()
        id = lab.submit()
        lab.until(id, lambda told: told["outcome"] == "done")
        return time.monotonic() - began, lab.digest(id)


def happens(case: Case, pause: float, usual_s: float, digest: str) -> dict[str, str]:
    """Return a row."""
    pauses = dict.fromkeys(SITES, pause)
    if case.is_slow:
        pauses = {"north": pause / 5, "west": 4 * pause}
    with tempfile.TemporaryDirectory(prefix="hanse-kill-") as name:
        lab = Lab(Path(name), pauses, case.raising, {*case.stays_dead}, case.back_s)
        with lab:
            if case.raising != "pass":
                return raises(lab, case)
            began = time.monotonic()
            id = lab.submit(case.more.format(2 * pause))
            lab.until(id, lambda told: told["round"] >= 1)
            time.sleep(pause / 2)
            case.act(lab)
            killed = time.monotonic()
            lab.until(id, lambda told: told["round"] >= 1)
            heard = time.monotonic() - killed
            said = (lab.told(id) or {"why": ["?"]})["why"]
            lab.until(id, lambda told: told["round"] >= 2)
            on = time.monotonic() - killed
            end = lab.until(id, lambda told: told["outcome"] is not None)
            took = time.monotonic() - began
            same = lab.digest(id) == digest
            return {
                "case": case.name,
                "outcome": f"{end['outcome']}, {end['round']}/{ROUNDS} rounds",
                "answers after": f"{heard:.1f} s",
                "next round after": f"{on:.1f} s",
                "longer than calm": f"{took - usual_s:+.1f} s",
                "same model": "yes" if same else "no: other reports",
                "human": case.helped,
                "seen": "; ".join(said),
            }


def raises(lab: Lab, case: Case) -> dict[str, str]:
    """Return the row of an app that raises at a site: the run waits, and says for what."""
    id = lab.submit()
    began = time.monotonic()
    told = lab.until(id, lambda told: any("refuses" in why for why in told["why"]))
    seen = time.monotonic() - began
    return {
        "case": case.name,
        "outcome": f"{told['stage']}: round 1 does not begin",
        "answers after": f"{seen:.1f} s",
        "next round after": "when it is corrected",
        "longer than calm": "",
        "same model": "",
        "human": case.helped,
        "seen": "; ".join(told["why"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pause", type=float, default=5.0, help="seconds of a training")
    parser.add_argument("--case", default="", help="only cases whose names have this in them")
    asked = parser.parse_args()
    usual_s, digest = calm(asked.pause)
    print(json.dumps({"case": "nothing", "outcome": "done", "seconds": round(usual_s, 1)}))
    for case in CASES:
        if asked.case in case.name:
            print(json.dumps(happens(case, asked.pause, usual_s, digest)), flush=True)


if __name__ == "__main__":
    main()
