"""A federation of real processes whose supervisor starts again whatever dies, and nothing else.

So a test that ends well needed no human. What is killed, and when, is the test's to say.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

from tests.crash import unit

from hanse.config.parse import parse
from hanse.errors import ConfigError, HanseError
from hanse.failpoints import VARIABLE
from hanse.net.account import fetch, submit
from hanse.net.client import Connection
from hanse.up import Federation, _remove

KILL = signal.SIGKILL
HANSE = (sys.executable, "-m", "hanse")


class Launched(Federation):
    """Whose processes may be started by other words than ``HANSE``, a tracer's for instance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.by = dict[str, Sequence[str]]()

    def _spawn(self, name: str, words: Sequence[str], home: Path) -> None:
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [*self.by.get(name, HANSE), *words, "--home", str(home)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


class Supervised:
    """A coordinator and the sites of ``app``; a context manager. ``deaths``: (process, status,
    what it was armed with)."""

    def __init__(self, folder: Path, app: ModuleType = unit) -> None:
        self.folder, self.app, self.task = folder, folder / "app", app.__name__.rpartition(".")[2]
        self.app.mkdir(parents=True)
        shutil.copy(str(app.__file__), self.app / f"{self.task}.py")
        self.federation = Launched(folder / "up", dict.fromkeys(unit.SITES, (self.app, {})))
        self.launching = {name: deque[Sequence[str]]() for name in ("coordinator", *unit.SITES)}
        """By which words a process is started next; without any, by ``HANSE``."""
        self.arming = {name: deque[str]() for name in self.launching}
        self.armed = dict.fromkeys(self.arming, "")
        self.deaths, self.leaving, self.number = list[tuple[str, int, str]](), False, 0
        self.loses_spool = False
        """Whether the disk loses all uploads each time that the coordinator is started again."""
        self.back = list[float]()
        """Seconds from each death of the coordinator until it listened again."""
        self.heard: list[float] | None = None
        """If it is a list, seconds from there until it had heard of all sites again."""

    def __enter__(self):
        (self.folder / "up").mkdir(exist_ok=True)
        for name, words in self.launching.items():
            self.federation.by[name] = words.popleft() if words else HANSE
        self.federation.__enter__()
        found = urlsplit(self.federation.account.url).port
        assert found
        self.port = found
        self.watchers = [
            threading.Thread(target=self._watch, args=(name,), daemon=True) for name in self.arming
        ]
        for watcher in self.watchers:
            watcher.start()
        return self

    def __exit__(self, *_):
        self.leaving = True
        for watcher in self.watchers:
            watcher.join()
        self.federation.__exit__()
        said = {p: p.read_text(errors="replace") for p in self.folder.rglob("*.log") if p.is_file()}
        odd = [path for path, text in said.items() if "Traceback" in text or "a bug in" in text]
        assert not odd, f"{odd[0]}: {said[odd[0]][-3000:]}"
        _remove(self.folder / "up")

    def _watch(self, name: str) -> None:
        """Start a process again, each time that it has ended, with what it is armed with next."""
        while not self.leaving:
            process = self.federation.processes.get(name)
            if process is not None and process.poll() is None:
                time.sleep(0.01)
                continue
            if process is not None:
                self.deaths.append((name, process.returncode, self.armed[name]))
            self.armed[name] = self.arming[name].popleft() if self.arming[name] else ""
            began = time.monotonic()
            with suppress(ConfigError):  # it has died while it started
                self._start(name)
                if name == "coordinator":
                    self.back.append(time.monotonic() - began)
                    self._await_sites(began)

    def _await_sites(self, began: float) -> None:
        """Note when the coordinator has heard of all sites, unless it dies before."""
        process, line = self.federation.processes["coordinator"], self.line()
        while self.heard is not None and process.poll() is None and not self.leaving:
            with suppress(HanseError):
                sites = line.request("GET", "/v1/sites").json()["sites"]
                if all(site["away_s"] is not None for site in sites):
                    self.heard.append(time.monotonic() - began)
                    return
            time.sleep(0.02)

    def _start(self, name: str) -> None:
        with STARTING:
            os.environ[VARIABLE] = self.armed[name]
            words = self.launching[name]
            self.federation.by[name] = words.popleft() if words else HANSE
            if name == "coordinator" and self.loses_spool:
                shutil.rmtree(self.federation.home.folder / "spool")
            try:
                if name == "coordinator":
                    self.federation.start_coordinator(self.port)
                else:
                    self.federation.start_site(name)
            finally:
                del os.environ[VARIABLE]

    def pid(self, name: str) -> int | None:
        """Return the process of ``coordinator``, a site, or ``NAME's job``, if it lives."""
        site, _, is_job = name.partition("'s ")
        process = self.federation.processes.get(site)
        if process is None or not is_job:
            return process and process.pid
        words = ["pgrep", "-P", str(process.pid), "-f", "hanse.site.job"]
        found = subprocess.run(words, capture_output=True, text=True).stdout.split()
        return int(found[0]) if found else None

    def kill(self, name: str) -> bool:
        """End a process at once; whether there was one."""
        pid = self.pid(name)
        with suppress(ProcessLookupError):
            if pid is not None:
                os.kill(pid, KILL)
        return pid is not None

    def await_successor(self, name: str) -> None:
        """Wait until what was killed is started again."""
        while self.federation.processes[name].poll() is not None or STARTING.locked():
            time.sleep(0.01)

    # --- runs

    def line(self) -> Connection:
        return self.federation.account.dial()

    def submit(self, rounds: int, name: str = "unit") -> str:
        """Submit a run; a submission that was not receipted is made again, as people do."""
        told = {"task": f"{self.task}:task", "data": f"{self.task}:data", "name": name,
                "rounds": rounds, "sites": [*unit.SITES], "seed": 5}  # fmt: skip
        path = self.app / f"{name}.toml"
        path.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in told.items()))
        while True:
            with suppress(HanseError):
                return submit(self.line(), parse(path).load())
            time.sleep(0.2)

    def told(self, id: str) -> dict | None:
        """Return how a run stands, or nothing while the coordinator is away."""
        with suppress(HanseError):
            return self.line().request("GET", f"/v1/runs/{id}").json()
        return None

    def has_ended(self, id: str) -> bool:
        told = self.told(id)
        return told is not None and told["outcome"] is not None

    def end(self, id: str, most_s: float = 60.0) -> None:
        """Wait for the end of a run."""
        ends = time.monotonic() + most_s
        while not self.has_ended(id):
            assert time.monotonic() < ends, f"not in {most_s} s: {(self.told(id) or {}).get('why')}"
            time.sleep(0.05)

    def check(self, id: str, digest: str) -> None:
        """See that a run has ended well: each update counted once, and the model is ``digest``."""
        told = self.told(id)
        while told is None:
            told = self.told(id)
        assert told["outcome"] == "done", told["why"]
        into = self.folder / f"fetched-{id}"
        into.mkdir()
        found = fetch(self.line(), id, into)
        mine = found.vector[: len(unit.SITES) * unit.MOST].reshape(len(unit.SITES), unit.MOST)
        known = found.vector[len(unit.SITES) * unit.MOST :][: unit.MOST]
        rounds = told["rounds"]
        assert (mine[:, :rounds] == 1 / len(unit.SITES)).all(), mine
        assert (known[:rounds] == range(rounds)).all(), known  # the sites' memories
        assert found.read.spec.layout.digest(found.vector) == digest
        assert [len(row["counted"]) for row in found.history] == [len(unit.SITES)] * rounds


STARTING = threading.Lock()
"""Held while a process is started with an environment of its own."""
