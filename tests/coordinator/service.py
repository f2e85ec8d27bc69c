"""A real coordinator on loopback, with sites and people who speak the protocol, without torch.

``serving`` runs it in a thread of this process: real TLS, a real journal, real files.
``a_process`` runs ``hanse coordinator start``, for what must be seen from outside.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from hanse.config.specification import layout_json
from hanse.coordinator.access import Desk
from hanse.coordinator.bell import Bell
from hanse.coordinator.home import IDENTITY, OPERATOR, Home, Settings
from hanse.coordinator.office import Office
from hanse.coordinator.reserve import Reserve
from hanse.coordinator.routes import router
from hanse.coordinator.runs import Runs
from hanse.coordinator.spool import Spool
from hanse.coordinator.table import TABLE
from hanse.core.accelerate import warm
from hanse.core.frames import model_frame, share_frame
from hanse.core.layout import Layout
from hanse.core.listing import CHUNK, Listing
from hanse.core.pipeline import Pipeline
from hanse.core.spec import Evaluation, RunSpec
from hanse.core.weight import Weight
from hanse.core.work import LocalTraining
from hanse.net.authority import Authority, make_request, server_context
from hanse.net.client import Connection, Response
from hanse.net.invitations import Token
from hanse.net.keys import IdentityKey, write_private
from hanse.net.server import Server
from hanse.net.session import SignedConnection
from hanse.net.transfer import download, upload
from hanse.privacy import Clip
from hanse.strategies import fedavg
from hanse.train.local import evaluation_scalars, training_scalars

SMALL = Layout.build("float32", [("w", (20,), "trainable"), ("b", (3,), "trainable")])
WIDE = Layout.build("float32", [("w", (300_000,), "trainable")])
"""Its shares take two chunks."""
HOSTS = ("127.0.0.1", "localhost")
START_S = 30


# What travels


@dataclass(frozen=True)
class Recorded:
    """One request as it was sent, but for the line."""

    method: str
    path: str
    content: bytes
    headers: dict[str, str]


class Recording(Connection):
    """A connection that keeps what it sends."""

    sent: list[Recorded] | None = None

    def exchange(self, method, path, content=b"", *, headers=None, **more) -> Response:
        if self.sent is not None and not isinstance(content, bytes):
            content = b"".join(map(bytes, content))
        self._keep(method, path, content, headers)
        return super().exchange(method, path, content, headers=headers, **more)

    def stream(self, path, *, headers=None, **more):
        self._keep("GET", path, b"", headers)
        return super().stream(path, headers=headers, **more)

    def _keep(self, method, path, content, headers):
        if self.sent is not None:
            self.sent.append(Recorded(method, path, content, dict(headers or {})))

    def again(self, recorded: Recorded) -> Response:
        """Send a recorded request once more, as it was."""
        return super().exchange(
            recorded.method, recorded.path, recorded.content, headers=recorded.headers
        )


def spec_of(*sites: str, layout: Layout = SMALL, name="tiny", rounds=2, **more: Any) -> RunSpec:
    """A run that needs numpy only."""
    strategy = fedavg()
    settings: dict[str, Any] = {
        "evaluation": Evaluation(every=1),
        "pipeline": Pipeline([Weight(by="examples", cap=100), Clip(norm=1.0)]),
        "app": {"app.py": "0" * 64},
        "sources": ("rows",),
        "purpose": "tests",
        "seed": 7,
        **more,
    }
    return RunSpec(
        name=name,
        task="app:task",
        data="rows",
        clients=sites,
        rounds=rounds,
        strategy=strategy.settings(),
        sampler=strategy.sampler,
        local=LocalTraining(),
        layout=layout,
        training=training_scalars(),
        evaluation_scalars=evaluation_scalars(()),
        **settings,
    )


def submission(spec: RunSpec) -> tuple[dict[str, Any], bytes]:
    """The body of a submission, and the frame of its initial model, which depends on the seed."""
    vector = spec.layout.zeros()
    vector[0] = spec.seed
    frame = bytes(model_frame(spec.layout).pack({"vector": vector}))
    body = {
        "spec": spec.canonical,
        "layout": layout_json(spec.layout),
        "model": Listing.of(frame).id,
    }
    return body, frame


def submit(line: Connection, spec: RunSpec) -> str:
    """Submit a run; return its id."""
    body, frame = submission(spec)
    told: Any = line.request("POST", "/v1/runs", body).json()
    assert told["state"] == "missing", told
    path = f"/v1/runs/{told['run']}/model/chunks/0"
    body = Listing.of(frame).packed + frame
    assert line.exchange("PUT", path, body).accepted().json()["state"] == "taken"
    return told["run"]


def share_of(spec: RunSpec, site: str, round: int) -> bytearray:
    """A share that is within all bounds, and each site's own."""
    bound, frame = spec.bound, share_frame(spec.bound)
    tensors = {name: np.zeros(n, dtype) for name, dtype, n in frame.tensors}
    chance = np.random.default_rng([round, *site.encode()])
    tensors["model"][:] = chance.normal(size=tensors["model"].size)
    tensors["model"] *= np.float32(0.9 / np.linalg.norm(tensors["model"]))
    tensors["scalars"][:] = [scalar.bound // 2 for scalar in bound.schema]
    return frame.pack(tensors)


def counts_of(spec: RunSpec, round: int) -> bytearray:
    frame = share_frame(spec.tally)
    told = {"examples": 10, "loss": 100 - round}
    numbers = [told.get(scalar.name, 1) for scalar in spec.tally.schema]
    return frame.pack({"scalars": np.array(numbers, dtype=np.int64)})


# Who speaks


@dataclass
class Site:
    """An enrolled site: its keys, and its signed line."""

    name: str
    key: IdentityKey
    connection: Recording
    line: SignedConnection
    specs: dict[str, RunSpec] = field(default_factory=dict)

    def poll(self, *, have="", wait=0.0) -> dict[str, Any]:
        body = {"have": have, "wait": wait, "doing": ""}
        return self.line.request("POST", "/v1/poll", body).json()  # type: ignore[return-value]

    def assignments(self) -> list[dict[str, Any]]:
        return self.poll()["assignments"]

    def post(self, path: str, body: Any) -> dict[str, Any]:
        return self.line.request("POST", path, {"body": body}).json()  # type: ignore[return-value]

    def put(self, path: str, content: bytes | bytearray, first: int = 0) -> dict[str, Any]:
        """Send a blob from chunk ``first`` on; return what is said."""
        listing = Listing.of(content)
        body = listing.packed + content[first * CHUNK :]
        told = self.line.send("PUT", f"{path}/chunks/{first}", bytes(body), listing.id)
        return told.json()  # type: ignore[return-value]

    def answer(self, asked: dict[str, Any], spec: RunSpec, into: Path | None = None) -> Any:
        """Answer one assignment as a good site would."""
        path, round = path_of(asked), asked["round"]
        if into is not None and asked["blob"]:
            download(
                self.line, asked["blob"], into / f"{self.name}-{asked['blob'][:16]}", most=2**30
            )
        match asked["kind"]:
            case "prepare":
                self.line.request("GET", f"/v1/runs/{asked['run']}/spec")
                return self.post(path, {"accepted": True, "fingerprint": "f" * 64})
            case "train":
                share = share_of(spec, self.name, round)
                return upload(self.line, path, share, Listing.of(share))
            case "evaluate":
                counts = counts_of(spec, round)
                return upload(self.line, path, counts, Listing.of(counts))
            case _:
                return self.post(path, {})

    def ask_until(self, kind: str, run: str, within_s=5.0) -> dict[str, Any]:
        """Poll until there is an assignment of this kind; return it."""
        ends, have = time.monotonic() + within_s, ""
        while time.monotonic() < ends:
            told = self.poll(have=have, wait=1.0)
            have = told["version"]
            for asked in told["assignments"]:
                if (asked["run"], asked["kind"]) == (run, kind):
                    return asked
        raise AssertionError(f"{self.name} was not asked for {kind} within {within_s} s")

    def play(self, run: str, spec: RunSpec, into: Path | None = None, within_s=30.0) -> None:
        """Answer everything until the run has ended."""
        ends, have = time.monotonic() + within_s, ""
        while time.monotonic() < ends:
            told = self.poll(have=have, wait=1.0)
            have = told["version"]
            for asked in told["assignments"]:
                if asked["run"] != run:
                    continue
                self.answer(asked, spec, into)
                have = ""
                if asked["kind"] == "finish":
                    return
        raise AssertionError(f"the run did not end within {within_s} s")


def path_of(asked: dict[str, Any]) -> str:
    return f"/v1/runs/{asked['run']}/{asked['round']}/{asked['kind']}"


def play_all(sites: list[Site], run: str, spec: RunSpec, into: Path | None = None) -> None:
    """Let every site take part to the end, each in a thread of its own."""
    failed = list[BaseException]()

    def work(site: Site) -> None:
        try:
            site.play(run, spec, into)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(site,)) for site in sites]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


# Who answers


@dataclass
class Coordinator:
    """A coordinator that listens; ``office`` and ``server`` if it is in this process."""

    folder: Path
    port: int
    office: Office | None = None
    server: Server | None = None
    process: subprocess.Popen[bytes] | None = None
    opened: list[Connection] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def authority(self) -> str:
        return (self.folder / "coordinator" / "authority.pem").read_text()

    @property
    def key(self) -> str:
        return IdentityKey.load(self.folder / "coordinator" / IDENTITY).public

    def dial(self, *files: Path, bearer: str | None = None) -> Recording:
        line = Recording(self.url, self.authority, *files, bearer=bearer, proxy="")
        self.opened.append(line)
        return line

    @property
    def operator(self) -> Recording:
        home = self.folder / "coordinator"
        return self.dial(bearer=json.loads((home / OPERATOR).read_text())["token"])

    def invite(self, name: str, role: str) -> Token:
        told: Any = self.operator.request("POST", "/v1/invitations", {"name": name, "role": role})
        return Token.parse(told.json()["token"])

    def person(self, name: str, role: str) -> Recording:
        """Let somebody log in; return their line."""
        secret = self.invite(name, role).secret.hex()
        body = {"secret": secret}
        told: Any = self.dial().request("POST", "/v1/login", body).json()
        assert told["role"] == role
        return self.dial(bearer=told["token"])

    def enrol(self, name: str) -> Site:
        """Let a site join, with keys of its own."""
        folder = self.folder / "sites" / name
        folder.mkdir(parents=True)
        key = IdentityKey.create(folder / "identity.pem")
        private, request = make_request(name)
        body = {
            "name": name,
            "secret": self.invite(name, "site").secret.hex(),
            "request": request,
            "key": key.public,
        }
        told: Any = self.dial().request("POST", "/v1/join", body).json()
        write_private(folder / "tls.pem", (told["certificate"] + private).encode())
        return self.site(name, key)

    def site(self, name: str, key: IdentityKey) -> Site:
        connection = self.dial(self.folder / "sites" / name / "tls.pem")
        return Site(name, key, connection, SignedConnection(connection, name, key, self.key))

    def revoke(self, name: str) -> None:
        self.operator.request("POST", f"/v1/members/{name}/revoke")

    def state(self, run: str) -> dict[str, Any]:
        return self.operator.request("GET", f"/v1/runs/{run}").json()  # type: ignore[return-value]

    def wait_for(self, run: str, stage: str, within_s=5.0) -> dict[str, Any]:
        ends = time.monotonic() + within_s
        while time.monotonic() < ends:
            told = self.state(run)
            if told["stage"] == stage:
                return told
            time.sleep(0.005)
        raise AssertionError(f"the run is not {stage} within {within_s} s: {told}")

    @property
    def rss(self) -> int:
        """Bytes of memory that the process has."""
        assert self.process is not None
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")


@contextmanager
def serving(folder: Path, *, database="", parallel=16, simulated=True) -> Iterator[Coordinator]:
    """A coordinator in a thread of this process."""
    warm("float32")  # the first round does not wait for a compiler
    home = Home(folder / "coordinator")
    if not (home.folder / OPERATOR).exists():
        settings = Settings(
            "tests", HOSTS, "127.0.0.1", 0, database=database, simulated=simulated,
            parallel=parallel,
        )  # fmt: skip
        home.create(settings)
    settings = home.settings()
    with ExitStack() as stack:
        authority, bell = Authority.load(home.folder), Bell()
        key, certificate = authority.issue_server(list(HOSTS), datetime.now(UTC))
        path = home.folder / "server.pem"
        write_private(path, (certificate + key).encode(), replace=True)
        journal = home.journal(settings)
        stack.callback(journal.close)
        spool, reserve = Spool(home.folder / "spool"), Reserve(home.folder)
        reserve.look()
        runs = Runs(
            journal, home.folder / "blobs", spool, reserve, bell.ring,
            parallel=settings.parallel, simulated=settings.simulated,
        )  # fmt: skip
        stack.callback(runs.close)
        identity = IdentityKey.load(home.folder / IDENTITY)
        desk = Desk(identity.public)
        office = Office(settings, identity, authority, journal, runs, bell, desk, home.folder)
        context = server_context(path, None, home.folder / "authority.pem")
        server = Server(router(TABLE, office), "127.0.0.1", 0, context, on_stop=bell.close)
        server.start()
        stack.callback(server.stop)
        found = Coordinator(folder, server.port, office, server)
        stack.callback(lambda: [line.close() for line in found.opened])
        yield found


@contextmanager
def a_process(folder: Path) -> Iterator[Coordinator]:
    """A coordinator as its operator starts it."""
    home = Home(folder / "coordinator")
    home.create(Settings("tests", HOSTS, "127.0.0.1", 0, simulated=True, parallel=16))
    words = ["coordinator", "start", "--port", "0", "--home", str(home.folder)]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "hanse", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    found = Coordinator(folder, 0, process=process)
    try:
        found.port = _port(home.folder / "address.json", process, folder / "log")
        yield found
    finally:
        for line in found.opened:
            line.close()
        process.send_signal(signal.SIGTERM)
        process.wait(START_S)


def _port(address: Path, process: subprocess.Popen[bytes], log: Path) -> int:
    ends = time.monotonic() + START_S
    while time.monotonic() < ends and process.poll() is None:
        try:
            return int(json.loads(address.read_text())["port"])
        except (OSError, ValueError):
            time.sleep(0.02)
    raise AssertionError(f"the coordinator did not start:\n{log.read_text()}")


__all__ = ["CHUNK", "SMALL", "WIDE", "Coordinator", "Recorded", "Recording", "Site", "serving"]
