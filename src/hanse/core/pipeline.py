"""The one idea: an update passes through steps, each with a client end and a server end.

A :class:`Pipeline` checks kinds and order when it is built; a run then binds it to a vector, a
cohort and the integers that its task reports (:meth:`Pipeline.bind`), which folds the facts again.
Nothing runs unbound.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise, takewhile

import numpy as np

from hanse.core.accelerate import kernels
from hanse.core.canonical import Json
from hanse.core.facts import Facts
from hanse.core.layout import Layout, Vector
from hanse.core.reduce import EXTRA, UNCAPPED_EXTRA, Accumulator, Share, Shares, Sum
from hanse.core.seeds import Chance
from hanse.core.step import (
    KINDS,
    ROOM,
    Integers,
    Memory,
    Place,
    Refused,
    Scalar,
    Step,
    Total,
    Update,
    Updates,
)
from hanse.core.sums import Grid, on_wire, peak, to_reals
from hanse.core.weight import Weight
from hanse.errors import PipelineError

ON_THE_WIRE = 2.0**-23
"""By how much, at most, a share is longer on the wire than was measured.

Half of it is for the rounding of each coordinate to float32 (its factor is rounded towards 0); the
other half is far more than the error of a measured length.
"""

Streams = Callable[[str], Chance]
Kept = Mapping[str, Memory]


@dataclass(frozen=True)
class Pipeline:
    """Steps in the order of their kinds: weight, bound, linear, noise, message codec, reducer.

    Without a weight it has ``Weight(by="uniform")``, without a reducer ``Sum()``. Raises
    PipelineError, with a hint, for steps that cannot work together.
    """

    steps: tuple[Step, ...] = ()

    def __init__(self, steps: Iterable[Step] = ()) -> None:
        """Check ``steps`` and keep them."""
        object.__setattr__(self, "steps", tuple(steps))
        self._check_that_these_are_steps()
        facts = self.facts()
        self._check_order()
        self._check_behind_noise(facts)

    def __repr__(self) -> str:
        """Write the pipeline as one would in Python."""
        return f"Pipeline([{', '.join(map(repr, self.steps))}])"

    @cached_property
    def applied(self) -> tuple[Step, ...]:
        """The steps as a client applies them: the weight, named first, comes after the bounds."""
        weights = [step for step in self.steps if step.kind == "weight"]
        others = [step for step in self.steps if step.kind != "weight"]
        bounds = list(takewhile(lambda step: step.kind == "bound", others))
        reducer = () if any(step.kind == "reducer" for step in others) else (Sum(),)
        weight = weights or [Weight(by="uniform")]
        return (*bounds, *weight, *others[len(bounds) :], *reducer)

    @property
    def reducer(self) -> Sum:
        """The step that makes one total of many shares."""
        last = self.applied[-1]
        assert isinstance(last, Sum)
        return last

    def trace(self, start: Facts | None = None) -> list[tuple[Step, Facts, Facts]]:
        """Return (step, facts before it, facts after it) in the order of application."""
        rows, facts = list[tuple[Step, Facts, Facts]](), start or Facts()
        for step in self.applied:
            before, facts = facts, step.check(facts)
            facts = replace(facts, memory=facts.memory or step.has_memory)
            rows.append((step, before, facts))
        return rows

    def facts(self, start: Facts | None = None) -> Facts:
        """Return what holds of a share at the end of the pipeline."""
        return self.trace(start)[-1][2]

    def bind(
        self,
        layout: Layout,
        *,
        cohort: int,
        scalars: Iterable[Scalar] = (),
        extras: Mapping[str, int] | None = None,
        example_multiplier: float = 0.0,
    ) -> "BoundPipeline":
        """Bind to the trainable part of ``layout``, to at most ``cohort`` clients in a sum, to the
        integers that a task reports, and to further float segments (name → length).
        ``example_multiplier``: of the noise that clients train with, see Facts.

        Under noise the task's integers and the further segments stay where they are: they would
        leave in the clear beside a private model. Raises PipelineError where the grid is too
        coarse for the claim of a bound, where integers of a step or buffers would be summed under
        noise, or where buffers would be divided by a public number.
        """
        if cohort < 1 or "model" in (extras or {}):
            raise ValueError(f"cannot bind to a cohort of {cohort} and {sorted(extras or {})}")
        span = layout.span("trainable")
        start = Facts(
            bits=np.dtype(layout.dtype).itemsize * 8,
            cohort=cohort,
            coordinates=span.stop - span.start,
            example_multiplier=example_multiplier,
        )
        facts = self.facts(start)
        own = [s for step in self.applied for s in step.scalars()]
        _check_beside(facts, [s.name for s in own if not s.noise], list(extras or {}))
        schema = _schema(own if facts.keeps_counts else [*own, *scalars], cohort)
        bound = BoundPipeline(self, layout, start, schema, dict(extras or {}))
        bound.check_room()
        return bound

    def settings(self) -> list[Json]:
        """Return the steps as tables of a run file."""
        return [step.settings() for step in self.steps]

    def _check_that_these_are_steps(self) -> None:
        for step in self.steps:
            if not isinstance(step, Step):  # pyright: ignore[reportUnnecessaryIsInstance] -- users pass anything
                raise PipelineError(
                    f"{step!r} is not a step",
                    hint="give step objects, such as hanse.Clip(norm=1.0)",
                )

    def _check_behind_noise(self, facts: Facts) -> None:
        """The noise is scaled to the share on the wire: nothing behind it may lose the bound."""
        has_bound = math.isfinite(facts.l2) or facts.is_noised_by_clients
        if facts.is_private and (facts.memory or not has_bound):
            kind = (
                "keeps memory at the client" if facts.memory else "lengthens shares without bound"
            )
            raise PipelineError(
                f"{self}: a step behind the noise {kind}, so the noise gives no privacy",
                hint="leave that step out",
            )

    def _check_order(self) -> None:
        for kind, limit in (("weight", 1), ("noise", 1), ("reducer", 1)):
            same = [step for step in self.steps if step.kind == kind]
            if len(same) > limit:
                raise PipelineError(
                    f"{same[0]} and {same[1]}: a pipeline has one {kind}",
                    hint=f"leave one {kind} out",
                )
        keepers = [step.name for step in self.steps if step.has_memory or step.has_state]
        for name in keepers:
            if keepers.count(name) > 1:
                raise PipelineError(
                    f"two steps called {name} would share what they keep",
                    hint=f"leave one {name} out",
                )
        for one, two in pairwise(self.steps):
            if KINDS.index(one.kind) > KINDS.index(two.kind):
                raise PipelineError(
                    f"{two} ({two.kind}) stands after {one} ({one.kind})",
                    hint=f"the order is {', '.join(KINDS)}: put {two} before {one}",
                )


def _check_beside(facts: Facts, own: list[str], extras: list[str]) -> None:
    """Refuse what may not stand beside noise, or beside a public denominator.

    ``own``: integers that steps add; ``extras``: further segments.
    """
    if facts.keeps_counts and extras:
        raise PipelineError(
            f"{', '.join(extras)} would leave in the clear beside a noised model",
            hint='set buffers = "local" or "freeze" in the task, or use GroupNorm',
        )
    if facts.is_private and own:
        raise PipelineError(
            f"{', '.join(own)} of a step would leave exactly beside a noised model, so the noise "
            "gives no privacy",
            hint="leave that step out, or the noise; adaptive_clip with cohort = ... has noise on "
            "its bits",
        )
    if facts.denominator == "public" and extras:
        raise PipelineError(
            f"{', '.join(extras)} divided by a public denominator would be no mean: statistics "
            "shrink with every client that is missing",
            hint='set denominator = "observed", or buffers = "local" or "freeze" in the task',
        )


def _schema(scalars: Iterable[Scalar], cohort: int) -> tuple[Scalar, ...]:
    """Return ``scalars`` as a sum over ``cohort`` clients has room for them."""
    schema = tuple(scalar.among(cohort) for scalar in scalars)
    if len({scalar.name for scalar in schema}) < len(schema):
        raise ValueError(f"two scalars of one name: {[scalar.name for scalar in schema]}")
    for scalar in schema:
        if scalar.bound * cohort > ROOM:
            raise PipelineError(
                f"{cohort} clients with {scalar.name} up to {scalar.bound} overflow 63 bits",
                hint="make the cohort smaller",
            )
    return schema


@dataclass(frozen=True)
class BoundPipeline:
    """A pipeline with the vector, the cohort and the integers that it works for."""

    pipeline: Pipeline
    layout: Layout
    start: Facts
    schema: tuple[Scalar, ...]
    extras: Mapping[str, int] = field(default_factory=dict[str, int])

    @cached_property
    def trace(self) -> list[tuple[Step, Facts, Facts]]:
        """(step, facts before, facts after), in the order of application."""
        return self.pipeline.trace(self.start)

    @cached_property
    def facts(self) -> Facts:
        """What holds of a share on the wire."""
        return self.trace[-1][2]

    @property
    def coordinates(self) -> int:
        """How many numbers the vector of a share has on the wire; a step may change it."""
        return self.facts.coordinates or 0

    @cached_property
    def grids(self) -> dict[str, Grid]:
        """The grid of each float segment; further segments are unbounded."""
        cohort = self.start.cohort or 1
        limit = EXTRA if self.facts.capped else UNCAPPED_EXTRA
        grids = {name: Grid.choose(limit, cohort) for name in self.extras}
        return {"model": self.pipeline.reducer.grid(self.facts), **grids}

    @cached_property
    def scalars_size(self) -> int:
        """How many int64 scalars a report carries."""
        return sum(scalar.size for scalar in self.schema)

    @cached_property
    def rounding(self) -> float:
        """By how much the grid can lengthen a share: √d/2 steps, for d coordinates that are not
        integers already.
        """
        if self.facts.domain == "integers":
            return 0.0
        return math.sqrt(self.coordinates) * self.grids["model"].step / 2

    @property
    def _on_the_wire(self) -> float:
        return 0.0 if self.facts.domain == "integers" else ON_THE_WIRE

    def check_room(self) -> None:
        """Refuse a grid that lengthens a share beyond its L2 claim, and integers without room."""
        facts, grid = self.facts, self.grids["model"]
        if facts.domain == "integers":
            self._check_integers(grid)
        elif math.isfinite(facts.l2) and self.rounding > facts.l2 * (2.0**-20 - 2.0**-22):
            raise PipelineError(
                f"{facts.coordinates} coordinates rounded to {grid.step:.3g} could exceed the L2 "
                f"bound of {facts.l2:g}",
                hint="make the cohort smaller, cap the weights"
                + (", or lower the noise multiplier" if facts.is_private else ""),
            )

    def _check_integers(self, grid: Grid) -> None:
        """A share's integers are exact in the wire's dtype and in the sum's conversion, and the sum
        has room for a cohort of them.
        """
        largest = min(2.0 ** (np.finfo(self.layout.dtype).nmant + 1), 2.0**51)
        if grid.limit > largest or grid.limit * grid.cohort > ROOM:
            raise PipelineError(
                f"integers up to {grid.limit:g} of {grid.cohort} clients have no room in "
                f"{self.layout.dtype} and 63 bits",
                hint="give scaled_round fewer bits, or lower the noise multiplier",
            )

    def accumulator(self, vector: Integers | None = None) -> Accumulator:
        """Return an empty sum; ``vector`` (int64, of the segment's length) is used if given."""
        size = self.coordinates
        extras = {name: np.zeros(n, dtype=np.int64) for name, n in self.extras.items()}
        empty = np.zeros(size, dtype=np.int64) if vector is None else vector
        return Accumulator(empty, np.zeros(self.scalars_size, dtype=np.int64), extras)

    def announce(self, states: Kept) -> dict[str, Json]:
        """Return what the server tells clients this round, by step name."""
        said = {s.name: s.announce(states.get(s.name, {})) for s, _, _ in self.trace}
        return {name: value for name, value in said.items() if value is not None}

    def encode(
        self,
        vector: Vector,
        counts: Mapping[str, int | Integers],
        chance: Streams,
        *,
        extras: Mapping[str, Vector] | None = None,
        memory: Kept | None = None,
        announced: Mapping[str, Json] | None = None,
    ) -> tuple[Share | Refused, Kept]:
        """Client end. ``vector`` is the update's model segment, in the layout's dtype.

        Returns the share and the client's provisional memory, to be kept when a receipt says that
        the share was counted. A vector of the wrong shape or dtype, with a NaN or an infinity, or
        out of the grid's range is refused, with the reason. Where clients add noise of their own,
        one that is not finite is a zero.
        """
        old = memory or {}
        if (vector.shape, str(vector.dtype)) != ((self.start.coordinates,), self.layout.dtype):
            return Refused(f"a {vector.dtype} vector of shape {vector.shape}"), old
        length = kernels().norm(vector)
        if not math.isfinite(length) and self.facts.is_noised_by_clients:
            vector, length = np.zeros_like(vector), 0.0  # a refusal would tell: it sends noise
        if not math.isfinite(length):
            return Refused("not finite: a coordinate is NaN, infinite, or overflows"), old
        update = Update(vector, length, counts=counts, extras=extras or {})
        fresh, was_bounded = dict(old), False
        for step, before, _ in self.trace:
            told = (announced or {}).get(step.name)
            kept = old.get(step.name, {})
            outcome = step.encode(update, Place(before, chance, told, kept))
            if isinstance(outcome, tuple):
                outcome, fresh[step.name] = outcome
            if isinstance(outcome, Refused):
                return outcome, old
            if step.kind == "bound":
                was_bounded |= step.shortens(update.scale, outcome.scale, outcome.counts)
            if outcome.vector is not update.vector:
                length = kernels().norm(outcome.vector)
            update = replace(outcome, length=length)  # measured here, whatever the step says
        share = self._share(update, was_bounded)
        return share, (old if isinstance(share, Refused) else fresh)

    def _share(self, update: Update, was_bounded: bool) -> Share | Refused:
        limit = self.grids["model"].limit
        longest = update.length * abs(update.scale)
        if not longest * (1 + self._on_the_wire) + self.rounding <= self.facts.l2:
            return Refused(
                f"model: its L2 norm, as it is summed, can be above {self.facts.l2:g}: a step broke"
                " its claim"
            )
        if not longest <= limit and not peak(on_wire(update.vector, update.scale)) <= limit:
            return Refused(f"out of range: a coordinate is not within {limit:g}")
        extras = dict[str, Vector]()
        for name, size in self.extras.items():
            segment = update.extras.get(name)
            if segment is None or segment.shape != (size,) or segment.dtype != np.float64:
                return Refused(f"{name}: not a float64 vector of {size}")
            extras[name] = on_wire(segment, update.weight)
            if not peak(extras[name]) <= self.grids[name].limit:
                return Refused(f"{name}: not finite, or not within {self.grids[name].limit:g}")
        scalars = self.pack(update.counts)
        if isinstance(scalars, Refused):
            return scalars
        return Share(update.vector, update.scale, scalars, extras, update.length, was_bounded)

    def encode_many(
        self,
        vectors: Vector,
        counts: Mapping[str, Integers],
        announced: Mapping[str, Json] | None = None,
    ) -> Shares | None:
        """Client end of K clients at once: ``vectors`` [K, d], ``counts`` [K] each.

        The shares that :meth:`encode` makes of each; None where that is to be asked one by one: a
        step cannot do it, or there is something to refuse.
        """
        facts, grid = self.facts, self.grids["model"]
        if self.extras or facts.memory or str(vectors.dtype) != self.layout.dtype:
            return None
        lengths, ones = kernels().norms(vectors), np.ones(len(vectors))
        updates = Updates(vectors, lengths, ones, ones, counts)
        were_bounded = np.zeros(len(vectors), dtype=np.bool_)
        for step, _, _ in self.trace:
            after = step.encode_many(updates, (announced or {}).get(step.name))
            if after is None or after.vectors is not vectors:
                return None
            if step.kind == "bound":
                were_bounded |= step.shortens(updates.scales, after.scales, after.counts)
            updates = after
        longest = lengths * np.abs(updates.scales)
        fits = longest * (1 + self._on_the_wire) + self.rounding <= facts.l2
        scalars = self._packed(updates.counts, len(vectors))
        if scalars is None or not (fits & (longest <= grid.limit) & np.isfinite(lengths)).all():
            return None
        return Shares(vectors, updates.scales, scalars, lengths, were_bounded)

    def _packed(self, counts: Mapping[str, Integers], many: int) -> Integers | None:
        """Return many clients' ``counts`` in the order of the schema; None if one is not in it."""
        packed = np.empty((many, self.scalars_size), dtype=np.int64)
        for place, scalar in enumerate(self.schema):
            told = counts.get(scalar.name)
            if told is None or scalar.size != 1 or told.shape != (many,):
                return None
            lowest = -scalar.bound if scalar.signed else 0
            if told.min() < lowest or told.max() > scalar.bound:
                return None
            packed[:, place] = told
        return packed

    def pack(self, counts: Mapping[str, int | Integers]) -> Integers | Refused:
        """Return ``counts`` in the order of the schema; refuse what is not within it."""
        packed = list[int]()
        for scalar in self.schema:
            told, lowest = counts.get(scalar.name), -scalar.bound if scalar.signed else 0
            numbers = [told] if type(told) is int else _whole(told)  # an array costs a small model
            if numbers is None or len(numbers) != scalar.size:
                return Refused(f"{scalar.name} is not {scalar.size} integers of 64 bits")
            if min(numbers) < lowest or max(numbers) > scalar.bound:
                return Refused(f"{scalar.name} is outside [{lowest}, {scalar.bound}]")
            packed += numbers
        return np.array(packed, dtype=np.int64)

    def unpack(self, scalars: Integers) -> dict[str, Integers]:
        """Return name → integers of a packed report or of a sum of them."""
        ends = np.cumsum([scalar.size for scalar in self.schema])[:-1]
        parts = np.split(scalars, ends) if self.schema else []
        return {scalar.name: part for scalar, part in zip(self.schema, parts, strict=True)}

    def decode(
        self, summed: Accumulator, chance: Streams, states: Kept | None = None
    ) -> tuple[Total, Kept]:
        """Server end: noise the integers, return to model units, then undo the steps in reverse.

        Returns the total (a mean, in model units) and the server's new states. Padding is zero.
        ``summed`` is spent: the total takes over its memory, and ValueError is raised for a
        second time, which would add the noise twice.
        """
        summed.spend()
        states, grid = states or {}, self.grids["model"]
        integers = summed.vector
        for step, _, _ in self.trace:
            drawn = step.noise(integers.size, grid.exponent, Place(self.facts, chance))
            if drawn is not None:
                integers += drawn
        counts = self.unpack(summed.scalars)
        for scalar in self.schema:
            for step, _, _ in self.trace if scalar.noise else ():
                drawn = step.noise_on(scalar, Place(self.facts, chance))
                if drawn is not None:
                    counts[scalar.name] = counts[scalar.name] + drawn
        extras = {n: to_reals(v, self.grids[n].exponent) for n, v in summed.extras.items()}
        total = Total(to_reals(integers, grid.exponent), counts, summed.reports, extras)
        fresh = dict(states)
        for step, before, _ in reversed(self.trace):
            outcome = step.decode(total, Place(before, chance, kept=states.get(step.name, {})))
            if isinstance(outcome, tuple):
                outcome, fresh[step.name] = outcome
            total = outcome
        self.layout.zero_pads(total.vector, self.layout.span("trainable"))
        if "buffers" in total.extras:
            self.layout.zero_pads(total.extras["buffers"], self.layout.span("buffer"))
        return total, fresh


def _whole(told: object) -> list[int] | None:
    """Return the numbers of an array of integers; None for anything else."""
    numbers = np.asarray(told)
    return numbers.reshape(-1).tolist() if numbers.dtype.kind in "iu" else None
