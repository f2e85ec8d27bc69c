"""One run at one site: what is asked is checked, done in the job's process, and released or not.

Everything that leaves goes through the gate. What went wrong is told to the coordinator as a code
and a phase; the rest stays here, unless the site's policy releases reasons.
"""

import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from hanse.config.application import difference, digest, freeze, manifest, read_manifest, thaw
from hanse.config.specification import Specification, read_layout, read_spec
from hanse.core import canonical
from hanse.core.frames import model_frame
from hanse.core.ledger import Void
from hanse.core.listing import Listing
from hanse.core.pipeline import BoundPipeline
from hanse.errors import BudgetError, ConfigError, HanseError, ProtocolError, TransportError
from hanse.failpoints import Point, reach
from hanse.log import Event, Line, caused
from hanse.net.problems import Missing
from hanse.net.session import SignedConnection
from hanse.net.transfer import download, upload
from hanse.sim.files import write_whole
from hanse.site.gate import Gate, Released, Withheld
from hanse.site.home import SiteHome
from hanse.site.ledger import SiteLedger, caps_of, reservation
from hanse.site.policy import Policy
from hanse.site.process import JobDied, JobProcess
from hanse.site.releases import Occasion, ReleaseLog
from hanse.site.verdict import Request, Situation, verdict

Say = Callable[[str, Line], None]
"""Tell the site's operator: in words, which stay at the site, and as an event of the log."""
Made = TypeVar("Made")
ROOM = 2**20
"""Free bytes below which a refusal may be due to the disk: it is answered anew when there are."""


@dataclass(frozen=True)
class Place:
    """What all runs at a site share: its folder, its app, its sources, its way out."""

    home: SiteHome
    app: Path
    sources: Mapping[str, str]
    line: SignedConnection
    record: ReleaseLog
    ledger: SiteLedger
    say: Say
    keep_going: Callable[[], bool]

    def policy(self) -> Policy | None:
        """Return the policy as it is on disk now, with the operator's sources."""
        found = self.home.rules()
        return None if found is None else found.with_sources(self.sources)


class NotPermitted(Exception):
    """The site's policy, or its app folder, refuses the run; ``reasons`` are facts of the spec."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class SiteRun:
    """A run's spec, its job, and its files, at this site."""

    def __init__(self, place: Place, run: str) -> None:
        """Nothing is asked or started yet."""
        self.place, self.run, self.folder = place, run, place.home.run(run)
        self.name = place.home.enrolled().name
        self.job: JobProcess | None = None
        self.read: Specification | None = None
        self.request: Request | None = None
        self.simulated = False
        self.fingerprint, self.longest_s = "", 0.0
        self.was_killed = False
        """Whether the last answer to ``prepare`` was no since the job was killed: it may pass."""
        self.made = set[Path]()

    def _twice(self, act: Callable[[], Made]) -> Made:
        """Do what needs the job; once more, with a new one, if its process was killed meanwhile.

        Something else on the machine may have done that. What kills it twice is the run's own.
        """
        try:
            return act()
        except JobDied as error:
            self._check_going(error)
            line = Line(Event.JOB_DIED, run=self.run)
            self.place.say(f"{self.run}: {error}: it is started again", line)
            self.close()
            return act()

    def open(self) -> None:
        """Read the spec, check it against policy and app, start the job; once."""
        if self.job is not None and self.job.is_alive:
            return
        self.close()
        told: Any = self.place.line.request("GET", f"/v1/runs/{self.run}/spec").json()
        read = read_spec(told["spec"], read_layout(told["layout"]))
        if self.name not in read.spec.clients:
            raise ProtocolError(f"{self.run} is not a run of {self.name}")
        policy = self._checked(read, told)
        self.read, self.simulated = read, bool(told["simulated"])
        self._reserve(read, policy)
        app = self.folder / "app"
        if app.exists():
            thaw(app)
        freeze(self.place.app, read.spec.app, app)
        job = JobProcess(self.folder / "output.log")
        try:
            opened = job.ask(
                {
                    "app": str(app),
                    "store": str(self.folder),
                    "site": self.name,
                    "sources": policy.sources_for(read.spec.sources),
                    "spec": told["spec"],
                    "layout": told["layout"],
                    "simulated": self.simulated,
                },
                policy.longest_training_s,
            )
        except BaseException:
            job.close()
            raise
        self.longest_s = policy.longest_training_s
        self.job, self.fingerprint = job, str(opened["fingerprint"])
        line = Line(Event.OPENED, run=self.run)
        self.place.say(f"{self.run}: opened, {opened['rows']} rows to train on", line)

    def _checked(self, read: Specification, told: Mapping[str, Any]) -> Policy:
        """Return the policy if it permits the run; NotPermitted with every reason."""
        spec, policy = read.spec, self.place.policy()
        extra = [path for path in spec.app if not path.endswith(".py")]
        here = manifest(self.place.app, extra)
        odd = difference(read_manifest(spec.app), here)
        enrolled, roster = self.place.home.enrolled(), canonical.digest(told["roster"])
        known, accepted = self.folder / "roster", "" if policy is None else policy.roster
        is_known = known.exists() and known.read_text() == roster
        situation = Situation(
            coordinator=enrolled.known_as("" if policy is None else policy.coordinator),
            roster=accepted if is_known else roster,
            installed=digest(here),
            simulated=bool(told["simulated"]),
            on_loopback=is_loopback(enrolled.url),
        )
        reasons = [] if odd is None else [odd]
        self.request = Request.of(spec, situation)
        refusals = verdict(policy, self.request)
        reasons += [one.said for one in refusals if odd is None or one.rule != "app"]
        if reasons or policy is None:
            raise NotPermitted(reasons)
        write_whole(known, roster.encode())  # who joins later is of no matter to this run
        return policy

    def _reserve(self, read: Specification, policy: Policy) -> None:
        """Have all that the run may release in the ledger, by the caps as they are now."""
        ledger = self.place.ledger
        with _again_if_full():
            ledger.open_anew()
        if ledger.rolled_back:
            raise NotPermitted([ledger.rolled_back])
        try:
            with _again_if_full():
                ledger.reserve(reservation(self.run, read.spec), caps_of(policy.sources))
        except BudgetError as error:
            raise NotPermitted([str(error)]) from error

    def token(self) -> str:
        """Return a digest of all that a refusal depends on: asked again, it is answered anew."""
        policy = self.place.home.policy
        try:
            files: Mapping[str, str] = manifest(self.place.app)
        except HanseError as error:
            files = {"": str(error)}
        text = policy.read_text() if policy.exists() else ""
        head = self.place.ledger.head.hash + self.place.ledger.rolled_back
        sources = {name: _stamp(path) for name, path in self.place.sources.items()}
        room = shutil.disk_usage(self.place.home.folder).free >= ROOM
        return canonical.digest(
            {"app": dict(files), "policy": text, "sources": sources, "room": room, "ledger": head}
        )

    # --- the four questions

    def prepare(self) -> dict[str, Any]:
        """Return the answer to ``prepare``."""
        self.was_killed = False
        try:
            self._twice(self.open)
        except NotPermitted as refused:
            return {"accepted": False, "reasons": refused.reasons}
        except (TransportError, Missing):
            raise
        except HanseError as error:
            self._check_going(error)
            self.was_killed = isinstance(error, JobDied)
            return {"accepted": False, "reasons": [self._said(error, "preparing")]}
        return {"accepted": True, "fingerprint": self.fingerprint}

    def train(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Answer ``train``; return the receipt."""
        return self._release(asked, "update", "train", announced=asked["body"]["announced"])

    def evaluate(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Answer ``evaluate``; return the receipt."""
        return self._release(asked, "counts", "evaluate")

    def finish(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Keep the final model, end the job, and remove what was only needed for the run."""
        if asked["blob"] is not None:
            if self.read is None:
                told: Any = self.place.line.request("GET", f"/v1/runs/{self.run}/spec").json()
                self.read = read_spec(told["spec"], read_layout(told["layout"]))
            self._twice(lambda: self._settle(asked))
            keep_model(self.read, self._model(asked), self.folder / "model.safetensors")
            reach(Point.SITE_MODEL_KEPT)
        self.close()
        self.place.ledger.note(Void(self.run))
        if (self.folder / "app").exists():
            thaw(self.folder / "app")
        for left in self.folder.glob("*.frame*"):
            left.unlink()
        reach(Point.SITE_CLEARED)
        return self.post(asked, {})

    def _release(
        self, asked: Mapping[str, Any], what: Any, kind: str, **more: Any
    ) -> dict[str, Any]:
        occasion = Occasion(self.run, asked["round"], what, self._again(asked))
        out = self.folder / f"{asked['round']}-{kind}.frame"

        def compute() -> str:
            self.open()
            gate, _ = self._gate(kind)
            self._settle(asked)
            is_whole = self._is_whole(out, gate.known(occasion))
            return "" if is_whole else self._compute(asked, kind, out, more)

        try:
            refused = self._twice(compute)
            gate, bound = self._gate(kind)
            with _again_if_full():
                self.place.record.open_anew()
                if refused:
                    found = gate.withhold(occasion, refused)
                else:
                    found = gate.release(occasion, out, bound)
                    self.place.ledger.show(self.place.line)
        except NotPermitted as refused_now:
            return self.post(asked, {"refused": "; ".join(refused_now.reasons)})
        except (TransportError, Missing):  # a model that is not there is no fault of the training
            raise
        except HanseError as error:
            self._check_going(error)
            return self.post(asked, {"failed": self._said(error, kind)})
        return self._leave(asked, kind, found, occasion, gate)

    def _again(self, asked: Mapping[str, Any]) -> int:
        """Return how often the round began again, where each time may add noise at the coordinator
        (all of it, or shares that are missing): the same update behind other noise is another
        release.
        """
        facts = None if self.read is None else self.read.spec.bound.facts
        adds = facts is not None and (facts.noise_multiplier > 0 or facts.shared is not None)
        return asked["body"].get("again", 0) if adds else 0

    def _check_going(self, error: HanseError) -> None:
        """Raise ``error`` if the agent ends: what then fails is no answer, it is asked again."""
        if not self.place.keep_going():
            raise error

    def _compute(
        self, asked: Mapping[str, Any], kind: str, out: Path, more: Mapping[str, Any]
    ) -> str:
        """Let the job train or evaluate into ``out``; return why there is nothing, or nothing."""
        assert self.job is not None
        for left in self.folder.glob(f"*-{kind}.frame"):
            left.unlink()
            self.made.discard(left)
        told = {"do": kind, "round": asked["round"], "model": str(self._model(asked)), **more}
        refused = self.job.ask({**told, "out": str(out)}, self.longest_s)["refused"]
        self.made.add(out)
        reach(Point.SITE_SHARE_COMPUTED)
        return refused

    def _is_whole(self, out: Path, known: str) -> bool:
        """Whether what lies there may leave: made since the agent began, or as it left before,
        as ``known``.

        Without noise nothing large is forced to the disk here, so a machine that lost its power may
        give back anything; what has not left is computed again.
        """
        if not out.exists():
            return False
        if out in self.made:
            return True
        return bool(known) and Listing.of(out.read_bytes()).id == known

    def _leave(
        self,
        asked: Mapping[str, Any],
        kind: str,
        found: Released | Withheld,
        occasion: Occasion,
        gate: Gate,
    ) -> dict[str, Any]:
        if isinstance(found, Withheld):
            line = Line(Event.REFUSED, run=self.run, round=asked["round"], kind=kind)
            self.place.say(f"{self.run}: round {asked['round']}: refused: {found.reason}", line)
            return self.post(asked, {"refused": found.said})
        assert isinstance(found.content, Path)
        path = f"/v1/runs/{self.run}/{asked['round']}/{kind}"
        receipt: Any = upload(
            self.place.line, path, found.content, found.listing,
            keep_going=self.place.keep_going,
        )  # fmt: skip
        reach(Point.SITE_SHARE_SENT)
        gate.arrived(occasion)
        return receipt

    def _gate(self, kind: str) -> tuple[Gate, BoundPipeline]:
        """Return the gate, by the policy as it is now: what is tightened counts at once."""
        policy = self.place.policy()
        if policy is None or self.read is None or self.request is None:
            raise NotPermitted(["this site has no policy"])
        situation = replace(self.request.situation, roster=policy.roster)
        refusals = verdict(policy, replace(self.request, situation=situation))
        if refusals:
            raise NotPermitted([one.said for one in refusals])
        self._reserve(self.read, policy)
        spec = self.read.spec
        bound = spec.bound if kind == "train" else spec.tally
        return Gate(policy, self.place.ledger, self.place.record), bound

    def _settle(self, asked: Mapping[str, Any]) -> None:
        counted = asked["counted"]
        if counted is not None and self.job is not None:
            self.job.ask({"do": "settle", "counted": counted}, self.longest_s)
            reach(Point.SITE_SETTLED)

    def _model(self, asked: Mapping[str, Any]) -> Path:
        """Return the file of the model that an assignment names, fetched if it is not here."""
        assert self.read is not None
        path = self.folder / f"model-{asked['blob'][:16]}.frame"
        if path not in self.made or not path.exists():
            part = path.with_name(path.name + ".part")
            if path.exists():
                path.replace(part)  # from before the agent began: its chunks are verified
            for old in self.folder.glob("model-*.frame*"):
                if old != part:
                    old.unlink()
                    self.made.discard(old)
            most = model_frame(self.read.spec.layout).size
            line, go = self.place.line, self.place.keep_going
            with _again_if_full():
                download(line, asked["blob"], path, most=most, keep_going=go)
            self.made.add(path)
            reach(Point.SITE_MODEL_FETCHED)
        return path

    def post(self, asked: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer an assignment without a blob; return the receipt."""
        path = f"/v1/runs/{self.run}/{asked['round']}/{asked['kind']}"
        told: Any = self.place.line.request("POST", path, {"body": body}).json()
        return told["receipt"]

    def _said(self, error: HanseError, doing: str) -> str:
        """Return what the coordinator is told of an error; the site's own log has all of it."""
        line = caused(Line(Event.FAILED, run=self.run), error)
        self.place.say(f"{self.run}: {doing}: [{error.code}] {error}", line)
        policy = self.place.policy()
        if policy is not None and "reasons" in policy.release:
            return f"[{error.code}] {error}"
        phase = getattr(error, "phase", "") or doing
        return f"[{error.code}] {phase} failed; the site's operator sees why: hanse site status"

    def close(self) -> None:
        """End the job."""
        if self.job is not None:
            self.job.close()
            self.job = None


@contextmanager
def _again_if_full() -> Generator[None]:
    """Turn what a full disk raises into an error that is tried again: there may be room later."""
    try:
        yield
    except ConfigError as error:
        raise TransportError(str(error), hint=error.hint) from error


def is_loopback(url: str) -> bool:
    """Whether ``url`` leads to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _stamp(path: str) -> str:
    """Return what changes when a source is put in place or replaced."""
    try:
        found = Path(path).stat()
        return f"{found.st_mtime_ns} {found.st_size}"
    except OSError:
        return "missing"


def keep_model(read: Specification, frame: Path, path: Path) -> None:
    """Write the model in ``frame`` as named tensors, in the safetensors format."""
    import numpy as np

    from hanse.sim.output import save_model

    content = np.fromfile(frame, dtype=np.uint8)
    vector = model_frame(read.spec.layout).unpack(content.data)["vector"]
    save_model(path, read.spec.layout, vector, read.spec.hash)
