"""A whole federation on this machine: a coordinator and its sites as real processes over real TLS.

It is the bridge between a simulation and a deployment, and the deployment's own test: the same
programs, keys, policies and messages as between organisations, on loopback. All of them are in one
hand here, so that it protects nothing; its runs are marked *simulated*, since their randomness is
drawn from the run's seed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanse.coordinator.home import Home, Settings
from hanse.core.canonical import Json
from hanse.errors import ConfigError, TransportError
from hanse.net.account import Account, history, news, submit
from hanse.net.client import Connection
from hanse.net.home import bring_home
from hanse.net.keys import read_private
from hanse.sim.output import note_origin
from hanse.sim.run import Callback, Run
from hanse.site.enrol import join
from hanse.site.home import SiteHome
from hanse.site.policy import Policy, accept_roster

START_S = 60.0


@dataclass
class Federation:
    """A coordinator and sites under one folder, started and ended together.

    A context manager: leaving it ends every process. ``sites``: name → (app folder, sources).
    """

    folder: Path
    sites: Mapping[str, tuple[Path, Mapping[str, str]]]
    parallel: int = 4

    def __post_init__(self) -> None:
        """Nothing runs yet."""
        self.processes = dict[str, subprocess.Popen[bytes]]()
        self.home = Home(self.folder / "coordinator")
        self.account = Account("", "", "", "")

    def __enter__(self) -> "Federation":
        """Start the coordinator, enrol the sites, and start them."""
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self) -> None:
        hosts = ("127.0.0.1", "localhost")
        self.home.create(
            Settings("up", hosts, "127.0.0.1", 0, simulated=True, parallel=self.parallel)
        )
        self.start_coordinator()
        line = self.account.dial()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._enrol, [line] * len(self.sites), self.sites))
        told: Any = line.request("GET", "/v1/sites").json()
        for site in self.sites:
            accept_roster(self.site_home(site).policy, told["roster"])
            self.start_site(site)

    def site_home(self, site: str) -> SiteHome:
        """Return the folder of a site."""
        return SiteHome(self.folder / "sites" / site)

    def start_coordinator(self, port: int = 0) -> None:
        """Start the coordinator's process, and wait until it listens."""
        address = self.home.folder / "address.json"
        address.unlink(missing_ok=True)
        self._spawn("coordinator", ["coordinator", "start", "--port", str(port)], self.home.folder)
        told = self._await(address, "coordinator")
        token = json.loads(read_private(self.home.folder / "operator.json"))["token"]
        authority = (self.home.folder / "authority.pem").read_text()
        self.account = Account("operator", f"https://127.0.0.1:{told['port']}", authority, token)

    def _await(self, address: Path, name: str) -> dict[str, Any]:
        ends = time.monotonic() + START_S
        while time.monotonic() < ends:
            try:
                return json.loads(address.read_text())
            except (OSError, ValueError):
                if self.processes[name].poll() is not None:
                    break
                time.sleep(0.02)
        raise ConfigError(
            f"the {name} did not start: {self._last_words(name)}",
            hint=f"see {self.folder / name}.log",
        )

    def _enrol(self, line: Connection, site: str) -> None:
        told: Any = line.request("POST", "/v1/invitations", {"name": site, "role": "site"}).json()
        home = self.site_home(site)
        join(home, self.account.url, site, told["token"])
        own = Policy(home.enrolled().coordinator, minimum_cohort=1, simulated=True)
        own.write(home.policy)

    def start_site(self, site: str) -> None:
        """Start the process of a site's agent."""
        app, sources = self.sites[site]
        words = ["site", "start", "--app", str(app)]
        words += [w for name, path in sources.items() for w in ("--source", f"{name}={path}")]
        self._spawn(site, words, self.site_home(site).folder)

    def _spawn(self, name: str, words: Sequence[str], home: Path) -> None:
        log = open(self.folder / f"{name}.log", "ab")  # noqa: SIM115 -- the child's, closed below
        with log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "hanse", *words, "--home", str(home)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def check_alive(self) -> None:
        """Raise TransportError if a process has ended by itself."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise TransportError(
                    f"the process of {name} has ended with status {process.returncode}: "
                    f"{self._last_words(name)}"
                )

    def _last_words(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        errors = [line for line in lines if line.startswith("Error:")]
        return (errors or lines or ["it said nothing"])[-1]

    def end(self, name: str, number: int = signal.SIGTERM) -> None:
        """End one process, and wait for it."""
        process = self.processes.pop(name)
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __exit__(self, *_: object) -> None:
        """End every process, the sites first."""
        for name, process in self.processes.items():
            if name != "coordinator" and process.poll() is None:
                process.terminate()
        for name in sorted(self.processes, key=lambda name: name == "coordinator"):
            self.end(name)


def up(run: Run, out: Path, callbacks: Sequence[Callback] = ()) -> dict[str, Json]:
    """Deploy ``run`` on loopback, follow it to its end, and bring it home to ``out``.

    Raises ConfigError for a run that cannot be deployed or did not end well.
    """
    if (out / "history.jsonl").exists():
        raise ConfigError(f"{out} holds a run already", hint="give another --out")
    if run.folder is None or not run.app:
        raise ConfigError(
            "only a run file with its own folder can be deployed", hint="hanse new DIR"
        )
    paths: Any = getattr(run.population, "sources", None)
    if paths is None:
        raise ConfigError(
            "a population is split from one data set, and real sites have their own",
            hint="name sites in the run file",
        )
    sources = {name: str(path) for name, path in paths.items()}
    folder = Path(tempfile.mkdtemp(prefix="hanse-up-"))
    try:
        places = dict.fromkeys(run.spec.clients, (run.folder, sources))
        with Federation(folder, places) as federation:
            return _follow(federation, run, out, callbacks)
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder, frozen apps in it too."""
    for root, folders, _ in os.walk(folder):
        for name in folders:
            (Path(root) / name).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _follow(
    federation: Federation, run: Run, out: Path, callbacks: Sequence[Callback]
) -> dict[str, Json]:
    line = federation.account.dial()
    id = submit(line, run)
    for callback in callbacks:
        callback.on_start(run, run.spec)
    shown, every = 0, run.evaluation.every
    told: dict[str, Any] = {}
    for told in news(line, id):
        federation.check_alive()
        if told["stage"] == "preparing" and any("refuses" in reason for reason in told["why"]):
            raise ConfigError("; ".join(told["why"]), hint="see what the site's policy permits")
        rows = history(line, id) if told["round"] > shown else []
        for row in rows[shown:]:
            number: Any = row["round"]
            waits = every and run.evaluation.is_due(number, run.rounds) and "evaluation" not in row
            if waits and told["outcome"] is None and run.evaluation.release != "none":
                break
            for callback in callbacks:
                callback.on_round({"evaluation": None, "central": None, "seconds": 0.0, **row})
            shown = number
    if told["outcome"] != "done":
        raise ConfigError(f"the run {told['outcome']}: {told['why'][0]}", hint="see its log")
    result = bring_home(line, id, out)
    note_origin(out, run.references)
    for callback in callbacks:
        callback.on_end(result)  # pyright: ignore[reportArgumentType] -- views look at no field
    return result
