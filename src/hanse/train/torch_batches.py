"""The batches of many clients, step by step: those that each client has when it trains alone.

Clients of a block have one *width*: batches that are smaller are filled up to it, and the rows that
fill them count 0.
"""

# torch's annotations are incomplete; what leaves this module is annotated.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hanse.core import seeds
from hanse.core.work import LocalTraining, steps_of
from hanse.train.local import Turns
from hanse.train.torch_data import Rows

LANES = 32
"""Numbers that torch's pointwise loops take at a time, at most (two registers of AVX-512)."""
WINDOW = 2**23
"""Bytes of inputs that are put in order at once."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which rows each client trains on, step by step; clients with more steps stand first.

    ``rows`` [K, T, B] are row numbers of the client's own data, ``sizes`` [K, T] how many of the B
    count: 0 behind a client's last step. ``unit``: clients compute in multiples of so many.
    """

    rows: NDArray[np.int64]
    sizes: NDArray[np.int64]
    unit: int

    @property
    def counts(self) -> list[int]:
        """How many clients have each step."""
        return [int(n) for n in (self.sizes > 0).sum(axis=0)]

    @property
    def live(self) -> list[int]:
        """How many compute it: those, and those behind them up to a whole unit."""
        return [-(-n // self.unit) * self.unit for n in self.counts]


def width_of(n: int, local: LocalTraining) -> int:
    """Return how many rows the batches of a client are filled up to.

    Its own number decides, for sums of other widths have other bits: the batch size, or for a
    client with less than one batch the next power of two.
    """
    whole = 1 << (n - 1).bit_length()
    return whole if local.batch_size is None else min(local.batch_size, whole)


def unit_of(width: int) -> int:
    """Return in multiples of how many clients any module computes with the same bits.

    Pointwise functions go by LANES numbers at a time through a tensor, and some compute the rest
    at its end otherwise: no client may stand there.
    """
    return max(2, LANES // math.gcd(LANES, width))


def schedule_of(
    sizes: Sequence[int], local: LocalTraining, turns: Turns, unit: int = 2
) -> Schedule:
    """Return the batches of clients of one width: those that each has when it trains alone."""
    n, width = np.array(sizes)[:, None], width_of(sizes[0], local)
    a_pass = -(-n // width)
    steps = steps_of(n, local)
    passes = int((-(-steps // a_pass)).max())
    keys = [seeds.keys(turns.seed, turns.round, turns.clients, epoch) for epoch in range(passes)]
    orders = seeds.permutations(np.stack(keys, axis=1), n)
    at = np.arange(int(steps.max()) * width)[None, :]
    epoch, place = np.divmod(at, a_pass * width)
    counts = (place < n) & (at < steps * width)
    client = np.arange(len(n))[:, None]
    rows = orders[client, np.minimum(epoch, passes - 1), np.where(counts, place, 0)]
    shape = (len(n), -1, width)
    return Schedule(rows.reshape(shape), counts.reshape(shape).sum(axis=2), unit)


def filled(schedule: Schedule) -> Schedule:
    """Return the schedule with copies of the first client behind, whose rows count nothing."""
    missing = -len(schedule.rows) % schedule.unit
    rows = np.concatenate([schedule.rows, schedule.rows[:1].repeat(missing, axis=0)])
    nothing = np.zeros((missing, schedule.sizes.shape[1]), dtype=np.int64)
    return replace(schedule, rows=rows, sizes=np.concatenate([schedule.sizes, nothing]))


def taken(data: Sequence[Rows], schedule: Schedule) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """Yield each step's batches, inputs [live, B, …] and targets [live, B, …].

    Rows are put in order for several steps at once, as many as fit into WINDOW.
    """
    live, width = schedule.live, schedule.rows.shape[2]
    columns = [[one.inputs[place] for one in data] for place in range(len(data[0].inputs))]
    columns.append([one.targets for one in data])
    a_step = sum(column[0][0].numel() * column[0].element_size() for column in columns) * width
    at_once = max(1, WINDOW // max(1, a_step * len(data)))
    numbers = torch.from_numpy(schedule.rows).to(data[0].targets.device)
    for first in range(0, len(live), at_once):
        some = numbers[:, first : first + at_once].flatten(1)
        rooms = [_ordered(column, some, live[first]) for column in columns]
        for step in range(some.shape[1] // width):
            now, count = slice(step * width, (step + 1) * width), live[first + step]
            *inputs, targets = (room[:count, now] for room in rooms)
            yield tuple(inputs), targets


def _ordered(column: Sequence[Tensor], numbers: Tensor, live: int) -> Tensor:
    """Return the rows ``numbers`` [K, n] of each client's tensor, for the first ``live``."""
    like, count = column[0], numbers.shape[1]
    if like.ndim == 1:  # so small that to put all together costs less than to go one by one
        starts = np.cumsum([0, *(part.shape[0] for part in column[: live - 1])])[:, None]
        whole = numbers[:live] + torch.from_numpy(starts).to(like.device)
        return torch.cat([*column[:live]])[whole]
    room = like.new_empty((live, count, *like.shape[1:]))
    if like.device.type == "cpu":  # NumPy has a third of torch's overhead here
        filled, places = room.numpy(), numbers.numpy()
        for k in range(live):
            np.take(column[k].numpy(), places[k], axis=0, out=filled[k], mode="clip")
        return room
    for part, rows, place in zip(column, numbers.unbind(), room.unbind(), strict=False):
        torch.index_select(part, 0, rows, out=place)
    return room


def counting(schedule: Schedule, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return which rows count, and how much each does in its batch.

    Both are [K, T, B]: of 1 or 0, and the same divided by how many rows there are.
    """
    sizes = torch.from_numpy(schedule.sizes).to(like.device).unsqueeze(-1)
    places = torch.arange(schedule.rows.shape[2], device=like.device)
    counts = (places < sizes).to(like.dtype)
    return counts, counts / sizes.clamp(min=1).to(like.dtype)
