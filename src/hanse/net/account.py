"""A researcher's or operator's side: who they are at a coordinator, and what they ask of it."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hanse.config.specification import layout_json, read_layout, read_spec
from hanse.core.canonical import Json
from hanse.core.frames import model_frame
from hanse.core.layout import Vector
from hanse.core.listing import CHUNK, Listing
from hanse.errors import ConfigError, ProtocolError, TransportError
from hanse.net.client import Connection, fetch_authority
from hanse.net.invitations import Token
from hanse.net.keys import read_private, write_private
from hanse.net.transfer import Patience, download
from hanse.sim.run import Run

NEWS_S = 0.2  # who watches sees no more than five changes a second


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

    Raises ConfigError for a run that the coordinator refuses, with what it says.
    """
    spec, (layout, vector) = run.spec, run.described
    frame = model_frame(layout).pack({"vector": vector})
    listing = Listing.of(frame)
    told: Any = line.request(
        "POST",
        "/v1/runs",
        {
            "spec": spec.canonical,
            "layout": layout_json(layout),
            "listing": {
                "size": listing.size,
                "chunks": [chunk.hex() for chunk in listing.chunks],
            },
        },
    ).json()
    if told["state"] == "refused":
        raise ConfigError(str(told["said"]), hint=str(told["hint"]))
    _send(line, f"/v1/runs/{told['run']}/model/chunks", memoryview(frame), listing)
    return str(told["run"])


def _send(line: Connection, path: str, frame: memoryview, listing: Listing) -> None:
    """Send the chunks that are missing, over a line that may break."""
    first, patience, tries = 0, Patience(lambda: tries < 8), 0
    while True:
        rest = frame[first * CHUNK :]
        pieces = (rest[at : at + 2**16] for at in range(0, len(rest), 2**16))
        headers = {"Content-Length": str(len(rest))}
        try:
            told: Any = (
                line.exchange("PUT", f"{path}/{first}", pieces, headers=headers).accepted().json()
            )
        except TransportError as error:
            tries += 1
            patience.after(error, progress=False)
            continue
        if told["state"] == "taken":
            return
        first = int(told["from"])
        if not 0 <= first < len(listing.chunks):
            raise ProtocolError("the coordinator asks for a chunk that the model does not have")


def news(line: Connection, run: str, every_s: float = NEWS_S) -> Iterator[dict[str, Any]]:
    """Yield how the run stands, when that has changed, until it has ended.

    ``every_s``: the least seconds between two times.
    """
    after = ""
    while True:
        query = f"?after={after}" if after else ""
        told: Any = line.request("GET", f"/v1/runs/{run}{query}").json()
        after = told["news"]
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
    """A run that has ended, as its coordinator has it."""

    read: Any
    history: list[dict[str, Json]]
    vector: Vector
    best: Mapping[str, Json] | None
    best_vector: Vector | None
    events: list[dict[str, Any]]


def fetch(line: Connection, run: str, into: Path) -> Fetched:
    """Download a run's models, history and events; temporary files go to ``into``."""
    state: Any = line.request("GET", f"/v1/runs/{run}").json()
    told: Any = line.request("GET", f"/v1/runs/{run}/history").json()
    events: Any = line.request("GET", f"/v1/runs/{run}/events").json()
    read = read_spec(told["spec"], read_layout(told["layout"]))
    vector = _vector(line, read, state["model"], into)
    best, best_vector = None, None
    if told["best"] is not None:
        number, metric, value, blob = told["best"]
        best = {"round": number, "metric": metric, "value": value}
        best_vector = _vector(line, read, blob, into)
    return Fetched(read, told["history"], vector, best, best_vector, events["events"])


def _vector(line: Connection, read: Any, blob: str, into: Path) -> Vector:
    path = into / f"{blob[:16]}.frame"
    frame = model_frame(read.spec.layout)
    download(line, blob, path, most=frame.size)  # pyright: ignore[reportArgumentType] -- only reads
    content = np.fromfile(path, dtype=np.uint8)
    path.unlink()
    return frame.unpack(content.data)["vector"]
