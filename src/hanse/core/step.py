"""One feature of a pipeline, with its client end, its server end, and what it guarantees."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from hanse.core.canonical import Json
from hanse.core.facts import Facts
from hanse.core.layout import Vector
from hanse.core.seeds import Chance

Kind = Literal["weight", "bound", "linear", "noise", "message", "reducer"]
KINDS: tuple[Kind, ...] = ("weight", "bound", "linear", "noise", "message", "reducer")
Integers = NDArray[np.int64]
Memory = Mapping[str, NDArray[Any]]
Factor = float | NDArray[np.float64]
ROOM = 2**62 - 1
"""The largest sum of scalars: a bit is left for noise."""


@dataclass(frozen=True, slots=True)
class Update:
    """A client's update on its way out.

    ``vector`` is local model − start; ``scale`` is the factor still pending on it (clip and
    weight), applied once by the wire or the reducer; ``length`` the L2 norm of ``vector`` in
    float64. ``counts`` are exact integers; ``extras`` further float segments (buffers), on which
    only the weight is pending, in ``weight``.
    """

    vector: Vector
    length: float
    scale: float = 1.0
    weight: float = 1.0
    counts: Mapping[str, int | Integers] = field(default_factory=dict[str, "int | Integers"])
    extras: Mapping[str, Vector] = field(default_factory=dict[str, Vector])


@dataclass(frozen=True, slots=True)
class Updates:
    """The updates of K clients at once: each field of :class:`Update` with an axis of K in front.

    ``vectors`` [K, d], ``lengths``, ``scales`` and ``weights`` [K] in float64, ``counts`` [K].
    """

    vectors: Vector
    lengths: NDArray[np.float64]
    scales: NDArray[np.float64]
    weights: NDArray[np.float64]
    counts: Mapping[str, Integers]


@dataclass(frozen=True, slots=True)
class Refused:
    """An update that is not summed. A value, not an exception: it is counted and named."""

    reason: str


@dataclass(frozen=True, slots=True)
class Total:
    """A cohort's sum on its way back: float64 ``vector``, exact ``counts``, ``reports`` summed."""

    vector: NDArray[np.float64]
    counts: Mapping[str, Integers]
    reports: int
    extras: Mapping[str, NDArray[np.float64]] = field(
        default_factory=dict[str, NDArray[np.float64]]
    )


@dataclass(frozen=True, slots=True)
class Scalar:
    """Schema of one exact int64 scalar (or ``size`` of them).

    Each is in [0, ``bound``], or in [−``bound``, ``bound``] if ``signed``, in units of
    ``resolution``. An ``elastic`` bound gives way where a large cohort leaves less room in a sum.
    ``noise``: standard deviation of the noise that its sum gets where the pipeline has noise; one
    client moves it by 1 at most.
    """

    name: str
    bound: int
    size: int = 1
    resolution: float = 1.0
    signed: bool = False
    elastic: bool = False
    noise: float = 0.0

    def among(self, cohort: int) -> "Scalar":
        """Return the scalar as a sum over ``cohort`` clients has room for it."""
        return replace(self, bound=min(self.bound, ROOM // cohort)) if self.elastic else self


@dataclass(frozen=True, slots=True)
class Place:
    """Where a step stands: the facts here, what the server announced, what was kept, and chance.

    ``kept`` is the client's memory in ``encode`` and the server's state in ``decode``; ``stream``
    gives what draws for a named purpose: in a simulation the same for the same run, round and
    client, across real sites never the same.
    """

    facts: Facts
    stream: Callable[[str], Chance]
    announced: Json = None
    kept: Memory = field(default_factory=dict[str, NDArray[Any]])


class Step:
    """Law: ``decode(Σ encode(u))`` estimates the sum of what the step lets through.

    A subclass is a frozen dataclass whose fields are its settings in a run file. The first sentence
    of its docstring is what ``hanse explain`` says of it, with ``setting`` replaced by its value;
    a clause behind a semicolon that names an unset setting is left out. ``name`` is its
    name there, ``kind`` its place in the order. One that keeps something sets ``has_memory``
    (at the client, between rounds it was counted in) or ``has_state`` (at the server), and then
    returns the new mapping of arrays beside the value.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    has_memory: ClassVar[bool] = False
    has_state: ClassVar[bool] = False

    def check(self, facts: Facts) -> Facts:
        """Return what holds after this step; raise PipelineError if ``facts`` are too weak."""
        return facts

    def scalars(self) -> tuple[Scalar, ...]:
        """Return the schema of the exact integers that this step adds to a report."""
        return ()

    def announce(self, state: Memory) -> Json:
        """Return what the server tells the clients for this step this round."""
        return None

    def encode(self, update: Update, place: Place) -> "Update | Refused | tuple[Update, Memory]":
        """Client end: one client's update, first step first."""
        return update

    def shortens(self, before: Factor, after: Factor, counts: Mapping[str, Any]) -> Any:
        """Return whether a bound made an update shorter, of the pending factors before and after it
        and the counts after it: of one update, or arrays of many.
        """
        return after < before  # pyright: ignore[reportOperatorIssue] -- both are of one kind

    def encode_many(self, updates: Updates, announced: Json) -> "Updates | None":
        """Client end of many at once, with the bits of :meth:`encode`; None to go one by one.

        A step that has another ``encode`` than this class's may write it out. It also returns None
        where it would refuse anybody.
        """
        return updates if type(self).encode is Step.encode else None

    def decode(self, total: Total, place: Place) -> "Total | tuple[Total, Memory]":
        """Server end: the cohort's total, last step first.

        ``total`` is spent: a step may work in the memory of its arrays.
        """
        return total

    def noise(self, size: int, exponent: int, place: Place) -> Integers | None:
        """Return integers at scale 2^``exponent`` to add to the sum, or None for no noise.

        ``place`` has the facts of a share on the wire, behind the last step: what is summed.
        """
        return None

    def noise_on(self, scalar: Scalar, place: Place) -> Integers | None:
        """Return integers to add to the sum of a scalar that is to be noised, or None."""
        return None

    def settings(self) -> dict[str, Json]:
        """Return the step as a table of a run file: its name and its settings."""
        chosen = {f.name: getattr(self, f.name) for f in fields(self)}  # pyright: ignore[reportArgumentType] -- every subclass is a dataclass
        return {"step": self.name} | {k: v for k, v in chosen.items() if v is not None}
