"""A run is a small pure program: ``ask`` what to sum next, ``absorb`` the sum.

A strategy asks once per round. Trees, statistics and low-rank updates ask more often. A program has
no I/O and no chance of its own; whoever drives it (simulator, coordinator) does the rounds.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from numpy.typing import NDArray

from hanse.core.pipeline import Pipeline
from hanse.core.samplers import Sampler
from hanse.core.step import Total
from hanse.core.work import Work

S = TypeVar("S")
Payload = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Ask:
    """One sum over a cohort: who takes part, what each does from what, through which pipeline."""

    round: int
    cohort: Sampler
    work: Work
    payload: Payload
    pipeline: Pipeline


@dataclass(frozen=True, slots=True)
class Done(Generic[S]):
    """The program has ended with this state."""

    state: S


class Program(Protocol[S]):
    """What a run does, round after round."""

    def ask(self, state: S) -> Ask:
        """Return the next sum that the program needs."""
        ...

    def absorb(self, state: S, total: Total) -> S | Done[S]:
        """Return the state after ``total``, the answer to the ask of ``state``."""
        ...


def drive(program: Program[S], state: S, perform: Callable[[Ask], Total]) -> Iterator[S]:
    """Run ``program`` from ``state`` to its end; yield the state after each answer."""
    while True:
        outcome = program.absorb(state, perform(program.ask(state)))
        if isinstance(outcome, Done):
            yield outcome.state  # pyright: ignore[reportUnknownMemberType] -- S may be a Done too
            return
        state = outcome
        yield state
