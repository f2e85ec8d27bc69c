"""A federation of real processes, seen as its users see it: by its commands, files and messages."""

import contextlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import hanse
from hanse.cli.app import main
from hanse.config.parse import parse
from hanse.net.account import fetch, submit
from hanse.up import Federation, _remove

APPS = Path(__file__).with_name("apps")
SITES = ("north", "south", "west")


@dataclass(frozen=True)
class Ran:
    """What a command left: exit status, standard output, standard error."""

    status: int
    out: str
    err: str


def command(*arguments, folder: Path) -> Ran:
    """Run a command of ``hanse`` in this process, with ``folder`` as $HANSE_HOME."""
    out, err, before = io.StringIO(), io.StringIO(), os.environ.get("HANSE_HOME")
    os.environ["HANSE_HOME"] = str(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main([str(argument) for argument in arguments])
    finally:
        if before is None:
            del os.environ["HANSE_HOME"]
        else:
            os.environ["HANSE_HOME"] = before
    return Ran(status, out.getvalue(), err.getvalue())


def until(found, most_s: float = 30.0, every_s: float = 0.05):
    """Return the first true ``found()``; fail if there is none in time."""
    ends = time.monotonic() + most_s
    while True:
        last = found()
        if last:
            return last
        assert time.monotonic() < ends, f"not in {most_s} s: {found.__name__}"
        time.sleep(every_s)


class Deployed:
    """One federation, its app folder, and whoever is logged in at it; a context manager."""

    def __init__(self, folder: Path, sites: Iterable[str] = SITES) -> None:
        self.folder, self.app, self.table = folder, folder / "app", folder / "table.csv"
        self.table.write_text("1.5\n2.5\n4\n")
        shutil.copytree(APPS, self.app, ignore=shutil.ignore_patterns("__pycache__"))
        (self.app / "words.txt").write_text("of no app")
        self.federation = Federation(
            folder / "up", dict.fromkeys(sites, (self.app, {"table": str(self.table)})), parallel=8
        )
        self.number = 0

    def __enter__(self):
        self.path = [*sys.path]
        (self.folder / "up").mkdir()
        self.federation.__enter__()
        self.federation.account.save(self.folder / "login.json")
        try:
            for site in self.federation.sites:
                self.shows(site, "on line")
        except BaseException:
            self.federation.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.federation.__exit__()
        sys.path[:] = self.path
        for name in ("app", "plain", "broken"):
            sys.modules.pop(name, None)
        said = {path: path.read_text(errors="replace") for path in self.folder.rglob("*log*")
                if path.is_file()}  # fmt: skip
        odd = [path for path, text in said.items() if "Traceback" in text or "a bug in" in text]
        assert not odd, f"{odd[0]}: {said[odd[0]][-3000:]}"
        _remove(self.folder / "up")

    # --- runs

    def run_file(self, more: str = "", *, sites=SITES, rounds: int = 2, name: str = "") -> Path:
        """Write a run file: ``more``, and usual values for the keys that it lacks."""
        self.number += 1
        name = name or f"run-{self.number}"
        usual = {
            "task": "plain:task",
            "data": "plain:data",
            "name": name,
            "sites": [*sites],
            "rounds": rounds,
            "seed": 11,
        }
        top, bracket, tables = f"\n{more}".partition("\n[")
        given = [line.partition(" =")[0] for line in top.splitlines()]
        lines = [f"{key} = {json.dumps(usual[key])}" for key in usual if key not in given]
        path = self.app / f"{name}.toml"
        path.write_text("\n".join(lines) + top + bracket + tables)
        return path

    def submit(self, more: str = "", **how) -> str:
        """Submit a run; return its id."""
        return self.send(self.run_file(more, **how))

    def send(self, file: Path) -> str:
        return submit(self.line, parse(file).load())

    @property
    def line(self):
        return self.federation.account.dial()

    def told(self, id: str) -> dict:
        return self.line.request("GET", f"/v1/runs/{id}").json()

    def end(self, id: str, most_s: float = 60.0) -> dict:
        """Wait for the end of a run; return how it stands then."""

        def has_ended():
            told = self.told(id)
            return told if told["outcome"] else None

        try:
            return until(has_ended, most_s)
        except AssertionError:
            raise AssertionError("\n".join(self.told(id)["why"])) from None

    def reaches(self, id: str, round: int, most_s: float = 30.0) -> None:
        """Wait until so many rounds are done."""
        until(lambda: self.told(id)["round"] >= round, most_s)

    def digest(self, id: str) -> str:
        """Return the digest of a run's model."""
        with_files = self.folder / f"fetched-{id}"
        with_files.mkdir()
        found = fetch(self.line, id, with_files)
        return found.read.spec.layout.digest(found.vector)

    def history(self, id: str) -> list[dict]:
        return self.line.request("GET", f"/v1/runs/{id}/history").json()["history"]

    def simulated(self, id: str) -> hanse.Result:
        """Return what the simulation of the same run file gives."""
        return hanse.simulate(self.app / f"{id.rpartition('-')[0]}.toml")

    # --- what people see

    def hanse(self, *arguments) -> Ran:
        return command(*arguments, folder=self.folder)

    def why(self, id: str) -> str:
        ran = self.hanse("why", id)
        assert ran.status == 0, ran.err
        return ran.out

    def says(self, id: str, *words: str, most_s: float = 30.0) -> str:
        """Wait until ``hanse why`` says all the words; return all that it says."""

        def why():
            said = self.why(id)
            return said if all(word in said for word in words) else None

        try:
            return until(why, most_s)
        except AssertionError:
            raise AssertionError(f"not said: {words}, but {self.why(id)}") from None

    def site(self, name: str, *arguments) -> Ran:
        """Run a command of ``hanse site`` at a site."""
        return self.hanse("site", *arguments, "--home", self.home(name).folder)

    def status(self, site: str) -> str:
        ran = self.site(site, "status")
        assert ran.status == 0, ran.err
        return ran.out

    def shows(self, site: str, *words: str, most_s: float = 30.0) -> str:
        """Wait until ``hanse site status`` says all the words; return all that it says."""

        def status():
            said = self.status(site)
            return said if all(word in said for word in words) else None

        try:
            return until(status, most_s, 0.1)
        except AssertionError:
            raise AssertionError(f"not shown: {words}, but {self.status(site)}") from None

    def home(self, site: str):
        return self.federation.site_home(site)

    def restart(self, site: str, number: int = 15) -> None:
        """End a site's agent and start it again."""
        self.federation.end(site, number)
        self.federation.start_site(site)

    def edit_policy(self, site: str, old: str, new: str) -> None:
        path = self.home(site).policy
        text = path.read_text()
        assert old in text, text
        path.write_text(text.replace(old, new))

    def redirect(self, site: str, url: str) -> None:
        """Let the site's way to the coordinator be another one, as if it had joined by it."""
        path = self.home(site).folder / "site.json"
        told = json.loads(path.read_text())
        path.write_text(json.dumps({**told, "url": url}))
