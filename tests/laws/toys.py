"""Small steps for tests: each does one thing that a real step may do."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from hanse.core.facts import Facts
from hanse.core.step import Kind, Memory, Place, Refused, Scalar, Step, Total, Update


@dataclass(frozen=True)
class Scaled(Step):
    """A linear codec: ``factor`` times the update there, divided by it on the way back."""

    factor: float = 0.5
    name: ClassVar[str] = "scaled"
    kind: ClassVar[Kind] = "linear"

    def check(self, facts: Facts) -> Facts:
        return replace(facts, l2=facts.l2 * self.factor, linf=facts.linf * self.factor)

    def encode(self, update: Update, place: Place) -> Update:
        return replace(update, scale=update.scale * self.factor)

    def decode(self, total: Total, place: Place) -> Total:
        return replace(total, vector=total.vector / self.factor)


@dataclass(frozen=True)
class Plus(Step):
    """Adds ``constant`` to the total: does not commute with Scaled, so it shows the order."""

    constant: float
    name: ClassVar[str] = "plus"
    kind: ClassVar[Kind] = "linear"

    def decode(self, total: Total, place: Place) -> Total:
        return replace(total, vector=total.vector + self.constant)


@dataclass(frozen=True)
class Feedback(Step):
    """Error feedback: sends whole numbers, and what is left over the next time."""

    name: ClassVar[str] = "feedback"
    kind: ClassVar[Kind] = "linear"
    has_memory: ClassVar[bool] = True

    def encode(self, update: Update, place: Place) -> tuple[Update, Memory]:
        wanted = update.vector + place.kept.get("left", np.zeros_like(update.vector))
        sent = np.rint(wanted)
        length = float(np.linalg.norm(sent.astype(np.float64)))
        return replace(update, vector=sent, length=length), {"left": wanted - sent}


@dataclass(frozen=True)
class FeedbackOnTheWire(Feedback):
    """Error feedback where message codecs stand: after central noise, in the order of kinds."""

    name: ClassVar[str] = "feedback_on_the_wire"
    kind: ClassVar[Kind] = "message"


@dataclass(frozen=True)
class Stretch(Scaled):
    """A message codec whose rounding may double a share."""

    factor: float = 2.0
    name: ClassVar[str] = "stretch"
    kind: ClassVar[Kind] = "message"


@dataclass(frozen=True)
class Rounds(Step):
    """Server state: how many totals there were; it is announced, and clients report hearing it."""

    name: ClassVar[str] = "rounds"
    kind: ClassVar[Kind] = "linear"
    has_state: ClassVar[bool] = True

    def scalars(self) -> tuple[Scalar, ...]:
        return (Scalar("heard", 1000),)

    def announce(self, state: Memory) -> int:
        return int(state["rounds"][0]) if state else 0

    def encode(self, update: Update, place: Place) -> Update:
        return replace(update, counts={**update.counts, "heard": place.announced})

    def decode(self, total: Total, place: Place) -> tuple[Total, Memory]:
        return total, {"rounds": place.kept.get("rounds", np.zeros(1, np.int64)) + 1}


@dataclass(frozen=True)
class Growing(Step):
    """Server state that decides the model: the n-th total counts n times."""

    name: ClassVar[str] = "growing"
    kind: ClassVar[Kind] = "linear"
    has_state: ClassVar[bool] = True

    def decode(self, total: Total, place: Place) -> tuple[Total, Memory]:
        number = place.kept.get("number", np.zeros(1, np.int64)) + 1
        return replace(total, vector=total.vector * float(number[0])), {"number": number}


@dataclass(frozen=True)
class Veto(Step):
    """Refuses every update."""

    name: ClassVar[str] = "veto"
    kind: ClassVar[Kind] = "linear"

    def encode(self, update: Update, place: Place) -> Refused:
        return Refused("not on a Friday")
