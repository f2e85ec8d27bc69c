"""A researcher's or operator's side: who they are at a coordinator, and what they ask of it."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hanse.config.specification import layout_json, read_layout, read_spec
from hanse.core.canonical import Json
from hanse.core.frames import model_frame
from hanse.core.layout import Vector
from hanse.core.listing import Listing
from hanse.errors import ConfigError, TransportError
from hanse.net.client import Connection, Response, fetch_authority
from hanse.net.invitations import Token
from hanse.net.keys import read_private, write_private
from hanse.net.problems import Missing
from hanse.net.transfer import download, upload
from hanse.sim.run import Run

NEWS_S = 0.2  # who watches sees no more than five changes a second
TRIES = 20
PATIENCE_S = 180.0  # how long a submission goes on over a line that breaks


@dataclass(frozen=True, slots=True)
class Account:
    """Where a person is logged in: the coordinator, its authority, and a bearer token."""

    name: str
    url: str
    authority: str
    token: str

    def __repr__(self) -> str:
        return f"Account({self.name!r}, {self.url!r})"

    def save(self, path: Path) -> None:
        """Write the account to a file of 0600."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, json.dumps(asdict(self)).encode(), replace=True)

    @staticmethod
    def load(path: Path) -> "Account":
        """Return the account in a file; ConfigError if nobody is logged in there."""
        if not path.exists():
            raise ConfigError(
                "nobody is logged in", hint="log in: hanse login https://COORDINATOR:8443"
            )
        try:
            return Account(**json.loads(read_private(path)))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path} is damaged", hint="log in again: hanse login") from error

    def dial(self) -> Connection:
        """Return the way to the coordinator."""
        return Connection(self.url, self.authority, bearer=self.token)


def login(url: str, token: str) -> Account:
    """Exchange an invitation for an account; ConfigError for one that does not count."""
    invitation = Token.parse(token)
    authority = fetch_authority(url, invitation.ca_fingerprint)
    connection = Connection(url, authority)
    told: Any = connection.request("POST", "/v1/login", {"secret": invitation.secret.hex()}).json()
    return Account(str(told["name"]), connection.url, authority, str(told["token"]))


def submit(line: Connection, run: Run) -> str:
    """Submit ``run``: its spec, and the model that it starts from; return the run's id.

    Raises ConfigError for a run that the coordinator refuses, with what it says; TransportError if
    the line is broken for longer than some minutes.
    """
    spec, (layout, vector) = run.deployed().spec, run.described
    frame = model_frame(layout).pack({"vector": vector})
    listing, until = Listing.of(frame), time.monotonic() + PATIENCE_S
    described: Json = {
        "spec": spec.canonical, "layout": layout_json(layout), "model": listing.id,
    }  # fmt: skip
    told: Any = line.request("POST", "/v1/runs", described).json()
    if told["state"] == "refused":
        raise ConfigError(str(told["said"]), hint=str(told["hint"]))
    path, sender = f"/v1/runs/{told['run']}/model", Unsigned(line)
    receipt: Any = upload(sender, path, frame, listing, keep_going=lambda: time.monotonic() < until)
    return str(receipt["run"])


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A person's connection as an upload uses it: the bearer token speaks for what is sent."""

    line: Connection

    def send(
        self,
        method: str,
        path: str,
        content: Iterable[memoryview],
        digest: str,
        *,
        headers: Mapping[str, str],
    ) -> Response:
        """Send ``content`` once; the answer is to ``method`` and ``path`` alone."""
        return self.line.exchange(method, path, content, headers=headers).accepted()


def news(
    line: Connection, run: str, every_s: float = NEWS_S, back_s: float = 0.0
) -> Iterator[dict[str, Any]]:
    """Yield how the run stands, when that has changed, until it has ended.

    ``every_s``: the least seconds between two times. A coordinator that has answered once and is
    away then is waited for: TransportError if it is not back within ``back_s``.
    """
    after, ends = "", 0.0
    while True:
        query = f"?after={after}" if after else ""
        try:
            told: Any = line.request("GET", f"/v1/runs/{run}{query}").json()
        except TransportError:
            if time.monotonic() > ends:
                raise
            time.sleep(1.0)
            continue
        after, ends = told["news"], time.monotonic() + back_s
        yield told
        if told["outcome"] is not None:
            return
        time.sleep(every_s)


def history(line: Connection, run: str) -> list[dict[str, Json]]:
    """Return the rows of the rounds so far."""
    told: Any = line.request("GET", f"/v1/runs/{run}/history").json()
    return told["history"]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A run as its coordinator has it; ``outcome`` is None as long as it goes on."""

    read: Any
    outcome: str | None
    history: list[dict[str, Json]]
    vector: Vector
    best: Mapping[str, Json] | None
    best_vector: Vector | None
    events: list[dict[str, Any]]
    simulated: bool


def fetch(line: Connection, run: str, into: Path) -> Fetched:
    """Download a run's models, history and events; temporary files go to ``into``.

    A run under way may put another model in the place of the one that it has just named: then it
    is asked again.
    """
    for _ in range(TRIES):
        state: Any = line.request("GET", f"/v1/runs/{run}").json()
        try:
            return _fetch(line, run, state, into)
        except Missing:
            if state["outcome"] is not None:
                raise
    raise TransportError(
        f"the models of {run} go by faster than they can be downloaded",
        hint="try again, or when the run has ended",
    )


def _fetch(line: Connection, run: str, state: Any, into: Path) -> Fetched:
    told: Any = line.request("GET", f"/v1/runs/{run}/history").json()
    events: Any = line.request("GET", f"/v1/runs/{run}/events").json()
    read = read_spec(told["spec"], read_layout(told["layout"]))
    vector = _vector(line, read, state["model"], into)
    best, best_vector = None, None
    if told["best"] is not None:
        number, metric, value, blob = told["best"]
        best = {"round": number, "metric": metric, "value": value}
        best_vector = _vector(line, read, blob, into)
    return Fetched(
        read, state["outcome"], told["history"], vector, best, best_vector, events["events"],
        told["simulated"],
    )  # fmt: skip


def _vector(line: Connection, read: Any, blob: str, into: Path) -> Vector:
    path = into / f"{blob[:16]}.frame"
    frame = model_frame(read.spec.layout)
    download(line, blob, path, most=frame.size)
    content = np.fromfile(path, dtype=np.uint8)
    path.unlink()
    return frame.unpack(content.data)["vector"]
