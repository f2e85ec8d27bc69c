"""Whether the numbers of a share are what the run's spec claims of them.

The site's release gate asks before a share leaves, the coordinator before it is summed: the same
checks, since neither believes the other. Nothing is repaired: a share is taken whole or refused.

A share is looked at piece by piece, as it is hashed or received. Its norm is summed in float64 in
another order than a client's, whose clip leaves 2^-20 of room: far more than that can matter.
"""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanse.core.frames import Bytes, Frame, share_frame
from hanse.core.listing import CHUNK
from hanse.core.pipeline import BoundPipeline
from hanse.core.sums import norm


class Inspection:
    """What is known of a share so far. Mutable on purpose: it sees one piece after another.

    A chunk may come again from its start, when a line was cut: what it showed before is forgotten.

    A reason to refuse names a limit of the spec and never a value of the share.
    """

    def __init__(self, bound: BoundPipeline) -> None:
        """Begin with nothing seen of a share that is to be summed by ``bound``."""
        self.bound = bound
        self._squares, self._faults = dict[int, float](), dict[int, str]()  # of each chunk
        self._looked = dict[int, int]()  # how many bytes of each chunk were looked at, in order
        self._scalars = np.zeros(bound.scalars_size, dtype=np.int64)

    @cached_property
    def frame(self) -> Frame:
        """The frame that the share must be."""
        return share_frame(self.bound)

    def look(self, at: int, piece: Bytes) -> None:
        """Look at the frame's bytes from byte ``at`` on, all of one chunk, from a multiple of 64.

        The number of bytes is the caller's to compare, who knows it before the first of them comes.
        ValueError if bytes of the chunk were left out before.
        """
        (chunk, within), header = divmod(at, CHUNK), self.frame.header
        if within == 0:
            for known in (self._squares, self._faults, self._looked):
                known.pop(chunk, None)
        if within != self._looked.get(chunk, 0):
            raise ValueError(f"byte {at} of a share after byte {self._looked.get(chunk, 0)}")
        if bytes(piece[: max(0, len(header) - at)]) != header[at : at + len(piece)]:
            self._faults[chunk] = "a frame with another header than the run's spec gives"
        else:
            for name, first, view in self.frame.pieces(at, piece):
                self.see(name, first, view, chunk)
        self._looked[chunk] = within + len(piece)

    def see(self, name: str, first: int, view: NDArray[Any], chunk: int = 0) -> None:
        """Look at a piece of the tensor ``name``, from coordinate ``first`` on; not empty."""
        if name == "scalars":
            self._scalars[first : first + view.size] = view
            return
        limit = self.bound.grids[name].limit
        if not (view.max() <= limit and view.min() >= -limit):  # so written, a NaN is outside
            self._faults.setdefault(chunk, f"{name}: not finite, or not within {limit:g}")
        elif name == "model" and math.isfinite(self.bound.facts.l2):
            self._squares[chunk] = self._squares.get(chunk, 0.0) + norm(view) ** 2

    def all_seen(self) -> None:
        """Note that :meth:`see` has seen every tensor whole."""
        self._looked = {0: self.frame.size}

    def verdict(self) -> str | None:
        """Return why the share is refused, or None, once all of it has been seen."""
        if self._faults:
            return self._faults[min(self._faults)]
        if sum(self._looked.values()) != self.frame.size:
            return "not all of the share was looked at"
        if not math.sqrt(math.fsum(self._squares.values())) <= self.bound.facts.l2:
            return f"model: the L2 norm is above {self.bound.facts.l2:g}"
        parts = self.bound.unpack(self._scalars)
        for scalar in self.bound.schema:
            numbers, lowest = parts[scalar.name], -scalar.bound if scalar.signed else 0
            if numbers.size and (numbers.min() < lowest or numbers.max() > scalar.bound):
                return f"{scalar.name} is outside [{lowest}, {scalar.bound}]"
        return None


def check_share(bound: BoundPipeline, tensors: Mapping[str, NDArray[Any]]) -> str | None:
    """Return why a whole share is refused, or None: all finite, in range, within its bounds.

    ``tensors`` are those of ``share_frame(bound)``, in its dtypes and lengths.
    """
    inspection = Inspection(bound)
    for name, array in tensors.items():
        inspection.see(name, 0, array)
    inspection.all_seen()
    return inspection.verdict()
