"""The site's agent: asks the coordinator what there is to do, and does it. It only dials out."""

import json
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from secrets import SystemRandom
from typing import Any

from hanse.core.canonical import Json
from hanse.errors import ConfigError, HanseError, TransportError
from hanse.log import Event, Line, caused
from hanse.net.problems import Conflict, Missing
from hanse.net.session import SignedConnection
from hanse.site.enrol import dial, is_due, renew
from hanse.site.home import SiteHome
from hanse.site.ledger import SiteLedger
from hanse.site.releases import ReleaseLog
from hanse.site.work import Place, Say, SiteRun

POLL_S = 25
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 30.0
PAUSE_PER_AWAY = 0.25
"""Who cannot reach the coordinator waits this part of the time that it could not already: back soon
after a short outage, and a long one costs little."""
RECHECK_S = 2.0
Assigned = Mapping[str, Any]


class Stopped(Exception):
    """The operator ends the agent while it waits for an answer."""


class Worker:
    """Answers the assignments of one run, one after another, in a thread of its own."""

    def __init__(self, place: Place, run: str) -> None:
        """Start the thread; it waits for assignments."""
        self.place, self.site_run = place, SiteRun(place, run)
        self.run, self.doing = run, ""
        self._news, self._asked = threading.Condition(), list[Assigned]()
        self._answered, self._refused = set[tuple[str, int, int]](), ""
        self._failure, self._pause_s = "", 0.0  # the last one, and how long it was waited after it
        self._may_retry = False
        self.is_over = False
        self.thread = threading.Thread(target=self._work, name=f"hanse-{run}", daemon=True)
        self.thread.start()

    def offer(self, asked: list[Assigned]) -> None:
        """Replace what is asked of the run."""
        with self._news:
            self._may_retry |= (
                bool(asked) and not self._asked
            )  # it was held back: all is well again
            self._asked = asked
            self._news.notify()

    def retry(self) -> None:
        """Wait no longer after a failure: the coordinator answers again."""
        with self._news:
            self._may_retry = True
            self._news.notify()

    def close(self) -> None:
        """End the thread and the job, whatever they do."""
        self.is_over = True
        if self.site_run.job is not None:
            self.site_run.job.kill()
        self.offer([])
        self.thread.join(5.0)

    def _work(self) -> None:
        while not self.is_over:
            asked = self._next()
            if asked is None:
                continue
            self.doing = f"{self.run}: {asked['kind']}, round {asked['round']}"
            try:
                self._answer(asked)
            except (TransportError, Missing, Conflict) as error:
                self._failed(error, str(error), RECHECK_S / 2)
            except OSError as error:
                self._failed(error, of_disk(error))
            except HanseError as error:
                self._failed(error, f"[{error.code}] {error}")
            except Exception as error:  # a mistake of ours must not end the thread unseen
                self._failed(error, f"{type(error).__name__}: {error}: a bug in Hanse")
            finally:
                self.doing = ""

    def _failed(self, error: Exception, why: str, pause_s: float = RECHECK_S) -> None:
        """Tell the operator, unless it is this worker's end that made it fail, and wait.

        What fails again in the same way is told once, and tried less and less often.
        """
        if self.is_over:
            return
        again = (told := f"{self.doing}: {why}") == self._failure
        self._failure = told
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S) if again else pause_s
        if not again:
            self.place.say(told, caused(Line(Event.FAILED, run=self.run), error))
        self._pause(self._pause_s)

    def _pause(self, seconds: float) -> None:
        with self._news:
            self._news.wait_for(lambda: self.is_over or self._may_retry, seconds)
            self._may_retry = False

    def _next(self) -> Assigned | None:
        """Wait for something that is not answered yet, or that may be answered otherwise now."""
        with self._news:
            self._news.wait_for(lambda: self.is_over or bool(self._open()), RECHECK_S)
            found = self._open()
        for asked in found:
            if asked["kind"] != "prepare" or self._refused != self.site_run.token():
                return asked
        if found:
            self._pause(RECHECK_S)
        return None

    def _open(self) -> list[Assigned]:
        return [asked for asked in self._asked if _name(asked) not in self._answered]

    def _answer(self, asked: Assigned) -> None:
        match asked["kind"]:
            case "prepare":
                before = self.site_run.token()
                told = self.site_run.prepare()
                self._refused = "" if told["accepted"] else before
                line = Line(Event.REFUSED, run=self.run, round=asked["round"], kind="prepare")
                for reason in told.get("reasons", ()):
                    self.place.say(f"{self.run}: refused: {reason}", line)
                receipt = self.site_run.post(asked, told)
                if self.site_run.was_killed:  # nothing here has to change before it is tried again
                    self._refused = ""
                    self._pause_s = min(max(2 * self._pause_s, RECHECK_S), LONGEST_PAUSE_S)
                    self._pause(self._pause_s)
            case "train":
                receipt = self.site_run.train(asked)
            case "evaluate":
                receipt = self.site_run.evaluate(asked)
            case "finish":
                receipt = self.site_run.finish(asked)
                self.is_over = True
            case other:
                raise ConfigError(
                    f"the coordinator asks for {other!r}, which this version does not know",
                    hint="upgrade this site",
                )
        self._answered.add(_name(asked))
        self.place.home.receipted(receipt)
        self._failure = ""
        entry = str(receipt.get("entry", ""))[:12]  # that a run was finished has no entry
        said = receipt.get("late") or (f"entry {entry}" if entry else "taken")
        line = Line(Event.ANSWERED, run=self.run, round=asked["round"], kind=asked["kind"])
        self.place.say(f"{self.run}: {asked['kind']}, round {asked['round']}: {said}", line)


class Agent:
    """Polls, and gives each run's assignments to its worker."""

    def __init__(self, home: SiteHome, app: Path, sources: Mapping[str, str], say: Say) -> None:
        """Check what the operator gave: ConfigError if it is not there. Nothing is dialled yet."""
        for name, path in sources.items():
            if not Path(path).exists():
                raise ConfigError(
                    f"--source {name}={path}: there is no such file or folder",
                    hint="name the data as this machine has it",
                )
        if not app.is_dir():
            raise ConfigError(f"--app {app} is no folder", hint="name the folder of the app")
        self.home, self.stopping, self._say = home, threading.Event(), say
        self.name = home.enrolled().name
        self.workers = dict[str, Worker]()
        self._how = (app.absolute(), {n: str(Path(p).absolute()) for n, p in sources.items()})
        self.last_error: str = ""
        self.is_online, self.unlogged, self._waiting, self.forgotten = False, "", 0, ""
        self.behind = ""

    def say(self, text: str, line: Line) -> None:
        """Append ``text`` to the site's log, and show both; a disk that is full ends nothing."""
        entry = json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "said": text})
        try:
            self._log(entry + "\n")
            self.unlogged = ""
        except OSError as error:
            self.unlogged = f"{text} (the log cannot be written: {of_disk(error)})"
            self._note()
        with suppress(OSError):  # the screen may be a file on the same disk
            self._say(text, line)

    def _log(self, line: str) -> None:
        path = self.home.folder / "log.jsonl"
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with open(log, "a") as file:
            file.write(line)

    def run(self) -> None:
        """Serve until :meth:`stop`; what the coordinator does not answer is asked again."""
        record = ReleaseLog(self.home.folder / "releases.jsonl")
        ledger: SiteLedger | None = None
        heard, place, version = time.monotonic(), None, ""
        try:
            ledger = SiteLedger(self.home.ledger)
            while not self.stopping.is_set():
                try:
                    if place is None:
                        place = self._place(record, ledger)
                    version = self._poll(place, version)
                    heard = time.monotonic()
                except (TransportError, OSError) as error:
                    said = of_disk(error) if isinstance(error, OSError) else _with_hint(error)
                    self._offline(error, said)
                    version = ""
                    self.stopping.wait(_pause_s(time.monotonic() - heard))
                except Stopped:
                    break
                except HanseError as error:  # asking again would not help
                    self._offline(error, str(error))
                    raise
        finally:
            for worker in self.workers.values():
                worker.close()
            record.close()
            if ledger is not None:
                ledger.close()

    def stop(self) -> None:
        """End soon; runs go on at the next start.

        Called by a signal in the thread of :meth:`run`, it breaks off a poll that waits.
        """
        self.stopping.set()
        if self._waiting == threading.get_ident():
            raise Stopped

    def _place(self, record: ReleaseLog, ledger: SiteLedger) -> Place:
        app, sources = self._how
        return Place(
            self.home, app, sources, dial(self.home, self._followed), record, ledger, self.say,
            lambda: not self.stopping.is_set(),
        )  # fmt: skip

    def _followed(self) -> None:
        said = "the coordinator has another identity key, named by its last one"
        self.say(said, Line(Event.KEY_FOLLOWED, name=self.name))

    def _look_back(self, line: SignedConnection) -> None:
        """See whether the coordinator still has what it gave this site the last receipt of."""
        known = self.home.receipt()
        if known is None:
            return
        try:
            told: Any = line.request("GET", f"/v1/entries/{known[0]}").json()
            stands = told["hash"] == known[1]
        except Missing:
            stands = False
        before, self.forgotten = self.forgotten, "" if stands else (
            f"the coordinator has lost event {known[0]} of its journal, of which this site has a "
            "receipt: it was restored from an older backup"
        )  # fmt: skip
        if self.forgotten and not before:
            self.say(self.forgotten, Line(Event.FORGOTTEN, name=self.name))

    def _look_at(self, ledger: SiteLedger, line: SignedConnection) -> None:
        """See whether this site's privacy ledger is the newest that the coordinator knows of."""
        before = ledger.rolled_back
        ledger.look(line)
        self.behind = ledger.rolled_back
        if self.behind and not before:
            self.say(self.behind, Line(Event.LEDGER_BEHIND, name=self.name))

    def _poll(self, place: Place, version: str) -> str:
        if is_due(self.home):
            renew(self.home, place.line)
        doing = "; ".join(worker.doing for worker in self.workers.values() if worker.doing)
        wait = POLL_S if version else 0
        asked: dict[str, Json] = {"have": version, "wait": wait, "doing": doing[:200]}
        told: Any = self._waited(place, asked)
        if not self.is_online:
            self.say(f"{self.name} is on line", Line(Event.ON_LINE, name=self.name))
            self.is_online, self.last_error = True, ""
            self._look_back(place.line)
            self._look_at(place.ledger, place.line)
            for worker in self.workers.values():
                worker.retry()
        self._hand_out(place, told["assignments"])
        self._note()
        return told["version"]

    def _waited(self, place: Place, asked: dict[str, Json]) -> Any:
        self._waiting = threading.get_ident()
        try:
            if self.stopping.is_set():
                raise Stopped
            return place.line.request("POST", "/v1/poll", asked).json()
        finally:
            self._waiting = 0

    def _hand_out(self, place: Place, found: list[Assigned]) -> None:
        by_run: dict[str, list[Assigned]] = {run: [] for run in self.workers}
        for asked in found:
            by_run.setdefault(asked["run"], []).append(asked)
        for run, asked in by_run.items():
            worker = self.workers.get(run)
            if worker is None or (worker.is_over and asked):
                worker = self.workers[run] = Worker(place, run)
            worker.offer(asked)
        for run in [run for run, worker in self.workers.items() if worker.is_over]:
            del self.workers[run]

    def _offline(self, error: Exception, why: str) -> None:
        if self.is_online or why != self.last_error:
            line = caused(Line(Event.OFF_LINE, name=self.name), error)
            self.say(f"{self.name} is off line: {why}", line)
        self.is_online, self.last_error = False, why
        self._note()

    def _note(self) -> None:
        self.home.note(
            {
                "name": self.name,
                "pid": os.getpid(),
                "at": time.time(),
                "online": self.is_online,
                "error": self.last_error or self.unlogged or self.behind or self.forgotten,
                "runs": {run: worker.doing for run, worker in self.workers.items()},
            }
        )


def _pause_s(away_s: float) -> float:
    """Return for how long to wait before the next attempt; ``away_s``: how long none has succeeded.

    It is drawn, so that the sites of a coordinator that comes back do not come all at once.
    """
    most = min(max(away_s * PAUSE_PER_AWAY, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
    return SystemRandom().uniform(most / 2, most)


def _with_hint(error: HanseError) -> str:
    return f"{error}: {error.hint}" if error.hint else str(error)


def _name(asked: Assigned) -> tuple[str, int, int]:
    """Return what names a question; a round that begins again asks another one."""
    return asked["kind"], asked["round"], asked["body"].get("again", 0)


def of_disk(error: OSError) -> str:
    """Return what the operating system says of a file, in words for the site's operator."""
    said = (error.strerror or str(error)).lower()
    return f"{error.filename}: {said}" if error.filename else said
