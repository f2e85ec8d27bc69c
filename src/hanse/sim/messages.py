"""Messages between a simulation and its workers: JSON, then one blob per array; no pickle."""

import json
import signal
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanse.errors import (
    BudgetError,
    ConfigError,
    DataError,
    HanseError,
    PipelineError,
    ProtocolError,
    TaskError,
    TransportError,
)
from hanse.sim.station import Kept

Answer = tuple[dict[str, Any], Kept]
"""JSON, and arrays: owner → name → array."""
KINDS: dict[str, type[HanseError]] = {
    kind.__name__: kind
    for kind in (
        *(ConfigError, PipelineError, TaskError, DataError),
        *(ProtocolError, BudgetError, TransportError),
    )
}


def send(pipe: Connection, message: Mapping[str, Any], arrays: Kept | None = None) -> None:
    """Send JSON and arrays (owner → name → array)."""
    flat = [(o, n, a) for o, named in (arrays or {}).items() for n, a in named.items()]
    shapes = [[owner, name, str(a.dtype), list(a.shape)] for owner, name, a in flat]
    pipe.send_bytes(json.dumps({**message, "arrays": shapes}).encode())
    for _, _, array in flat:
        pipe.send_bytes(np.ascontiguousarray(array).tobytes() or b"\0")


def receive(pipe: Connection) -> tuple[dict[str, Any], Kept]:
    """Return the JSON and the arrays of a message; EOFError if the other end is gone."""
    message = json.loads(pipe.recv_bytes())
    arrays: Kept = {}
    for owner, name, dtype, shape in message.pop("arrays"):
        blob = pipe.recv_bytes()
        count = int(np.prod(shape, dtype=np.int64))
        array: NDArray[np.generic] = np.frombuffer(blob, dtype=dtype, count=count).reshape(shape)
        arrays.setdefault(owner, {})[name] = array.copy()
    return message, arrays


def preserve(error: HanseError) -> dict[str, Any]:
    """Return an error as JSON takes it."""
    at = {k: getattr(error, k) for k in ("site", "round", "phase") if hasattr(error, k)}
    return {"type": type(error).__name__, "message": str(error), "hint": error.hint, **at}


def revive(told: dict[str, Any]) -> HanseError:
    """Return the error that a worker met."""
    kind = KINDS[told.pop("type")]
    return kind(told.pop("message"), **told)


def quiet() -> None:
    """Leave Ctrl-C to the parent, which ends its workers in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
