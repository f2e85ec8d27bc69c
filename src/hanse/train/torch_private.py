"""Local training by DP-SGD: what :class:`hanse.core.work.LocalPrivacy` says, in PyTorch.

Batches, noise and what the model draws (dropout) come from the turn's private streams, never from
a generator that others can seed. Between batches nothing of the data is kept but the model: what
would carry it on, or mix the examples of a batch, is refused.
"""

# torch's annotations are incomplete; what leaves this module is annotated.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from hanse.core.work import LocalPrivacy, LocalTraining, Train
from hanse.errors import ConfigError, TaskError
from hanse.privacy.gaussian import rounded
from hanse.train.local import Turn, whose_rows
from hanse.train.torch_clipped import WRITTEN, Alone, Clipped, Each, Mapped, Sums
from hanse.train.torch_data import Items, Rows
from hanse.train.torch_hooked import Hooked
from hanse.train.torch_losses import by_row
from hanse.train.torch_model import BufferPolicy, FlatModel
from hanse.train.torch_steps import Boxed, Optimizer, Sgd, corrected, optimizer_of

STEPS: Final = 20
"""log2 of how many steps of the noise's grid a standard deviation has, about."""
TRIED: Final = (2, 3)
APART: Final = 1e-3
"""Rows on which a way is tried, and how far, relatively, it may be from one row at a time."""

Tensors = Sequence[Tensor]


def refuse(module: nn.Module, loss: nn.Module, policy: BufferPolicy | None) -> None:
    """Raise ConfigError for a model or loss of which no example's gradient is its own."""
    if by_row(loss) is None:
        raise ConfigError(
            f"{type(loss).__name__} is not known to be a mean over rows, so [local.privacy] cannot "
            "tell one example's gradient from another's",
            hint="use a loss of torch without class weights and ignore_index",
        )
    if policy in ("aggregate", "local"):
        raise ConfigError(
            f'buffers = "{policy}" beside [local.privacy]: statistics of the data would be kept '
            "without noise",
            hint='use GroupNorm in the place of BatchNorm, or buffers = "freeze"',
        )
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm) and (policy != "freeze" or part.running_mean is None):
            raise ConfigError(
                f"{name or 'the model'} is a {type(part).__name__}: an example's gradient depends "
                "on the others of its batch, and clipping it bounds nothing",
                hint='use nn.GroupNorm; or buffers = "freeze", which keeps the statistics',
            )
        if getattr(part, "max_norm", None) is not None:
            raise ConfigError(
                f"{name or 'the model'} has max_norm, which changes its table by what is looked up",
                hint="leave max_norm out",
            )


def batch(turn: Turn, step: int, n: int, rate: float) -> Tensor:
    """Return the numbers of the examples of a step: each of ``n`` by itself with ``rate``."""
    drawn = turn.stream(f"dp-sgd batch {step}").random(n)
    return torch.from_numpy(np.flatnonzero(drawn < rate))


def by_person(
    turn: Turn, step: int, persons: NDArray[np.int64], rate: float, most: int | None
) -> tuple[Tensor, Tensor]:
    """Return the numbers of the rows of a step, and of how many of its person each is one.

    ``persons`` [n]: whose each row is. Each person is taken by itself with ``rate``; of more than
    ``most`` rows so many are drawn.
    """
    chance = turn.stream(f"dp-sgd batch {step}")
    taken = chance.random(int(persons.max()) + 1) < rate
    numbers = np.flatnonzero(taken[persons])
    whose = persons[numbers]
    order = np.lexsort((chance.random(len(numbers)), whose))
    numbers, whose = numbers[order], whose[order]
    starts, counts = np.unique(whose, return_index=True, return_counts=True)[1:]
    rank = np.arange(len(whose)) - np.repeat(starts, counts)
    of = np.minimum(np.repeat(counts, counts), most or len(whose))
    kept = rank < of
    order = np.argsort(numbers[kept])
    return torch.from_numpy(numbers[kept][order]), torch.from_numpy(of[kept][order])


def noised(total: np.ndarray, private: LocalPrivacy, turn: Turn, step: int) -> np.ndarray:
    """Return ``total`` (float64, spent) plus noise of standard deviation z·C a coordinate.

    It comes out on a grid, of which z·C is 2^20 to 2^21 steps, rounded at random: see
    :class:`hanse.privacy.GaussianNoise` for what that leaves of a continuous Gaussian.
    """
    stddev = private.noise_multiplier * private.clip
    exponent = STEPS - math.floor(math.log2(stddev))
    chance = turn.stream(f"dp-sgd noise {step}")
    total *= 2.0**exponent
    drawn = rounded(total.size, stddev * 2.0**exponent, chance, total)
    drawn *= 2.0**-exponent
    return drawn


@dataclass
class PrivateTraining:
    """Trains one flat model privately. ``starts``: the parameters as the round began."""

    model: FlatModel
    loss: nn.Module
    starts: Tensors
    own: Optimizer | None

    def __post_init__(self) -> None:
        """Find where each trainable parameter stands in the flat vector."""
        entries = [e for e in self.model.layout.entries if e.role == "trainable"]
        self.spans = [slice(e.offset, e.end) for e in entries]
        self.names = [e.name for e in entries]
        self.size = self.model.layout.span("trainable").stop

    def run(self, data: Rows | Items, work: Train, turn: Turn) -> dict[str, int]:
        """Take the steps of one client; return counts that say nothing of its data."""
        local, private = work.local, work.local.privacy
        assert private is not None, "there is something to hide"
        assert local.steps is not None, "private training has a number of steps"
        self._refuse()
        clipped = self._clipped(data)
        optimizer = optimizer_of(local, self.model.parameters, self.own)
        self.model.training()
        for step in range(local.steps):
            numbers, clip = self._taken(data, private, turn, step)
            total = self._summed(clipped, data, numbers, clip)
            self._move(noised(total, private, turn, step), local, work, optimizer)
        return {"examples": 0, "steps": local.steps, "seen": 0, "loss": 0}

    def _refuse(self) -> None:
        roles = {entry.role for entry in self.model.layout.entries}
        policy = "freeze" if self.model.is_frozen_statistics else None
        refuse(self.model.module, self.loss, "local" if roles & {"local", "buffer"} else policy)

    def _taken(
        self, data: Rows | Items, private: LocalPrivacy, turn: Turn, step: int
    ) -> tuple[Tensor, float | Tensor]:
        """Return the numbers of the rows of a step, and to what each is clipped."""
        if private.unit == "example":
            return batch(turn, step, data.n, private.sampling_rate), private.clip
        if data.persons is None:
            raise whose_rows(turn.client)
        rate, most = private.sampling_rate, private.rows_per_person
        numbers, of = by_person(turn, step, data.persons, rate, most)
        return numbers, private.clip / of.to(self.model.device, torch.float64)

    def _summed(
        self, clipped: Clipped, data: Rows | Items, numbers: Tensor, clip: float | Tensor
    ) -> np.ndarray:
        """Return the sum of clipped gradients, flat, in float64. Within a part of the batch it is
        added up in the model's dtype. ``clip``: for all, or for each of ``numbers``.
        """
        total, at = np.zeros(self.size), 0
        for index in numbers.to(self.model.device).split(clipped.at_once):
            if not len(index):  # an empty tensor splits into itself
                continue
            found: Sums = [None] * len(self.spans)
            to = clip[at : (at := at + len(index))] if isinstance(clip, Tensor) else clip
            clipped.add(*data.batch(index), to, found)
            for span, part in zip(self.spans, found, strict=True):
                if part is not None:
                    total[span] += part.detach().double().flatten().numpy(force=True)
        return total

    def _move(
        self, total: np.ndarray, local: LocalTraining, work: Train, optimizer: Sgd | Boxed
    ) -> None:
        """Take the optimiser's step along the noised sum over ``batch_size``."""
        assert local.batch_size is not None, "the divisor is a number"
        params = self.model.parameters
        mean = torch.from_numpy(total / local.batch_size)
        grads: Tensors = [
            mean[span].view(p.shape).to(p.device, p.dtype)
            for span, p in zip(self.spans, params, strict=True)
        ]
        if work.correction is not None:
            grads = corrected(grads, params, self.starts, work.correction)
        with torch.no_grad():
            optimizer.step(params, grads)

    def _clipped(self, data: Rows | Items) -> Clipped:
        """Return the ways that do as one example at a time does, on a few of the client's rows.

        It depends on the client only, so that it is the same on any worker. TaskError for a model
        that mixes rows, or changes buffers.
        """
        rows = by_row(self.loss)
        assert rows is not None, "a loss that is no mean over rows is refused"
        module, params = self.model.module, self.model.parameters
        self._check_apart(data)
        alone = Alone(module, rows, params)
        hooked = Hooked(module, rows, params)
        batches = [data.batch(self._first(data, count)) for count in TRIED]
        module.eval()  # without what training draws
        right = [alone(*each) for each in batches]
        if hooked.fits():
            tried = [hooked(*each) for each in batches]
            if all(map(_agrees, tried, right)) and (last := tried[-1]) is not None:
                return Clipped([hooked, alone], _at_once(last))
        mapped = Mapped(module, rows, params, self.names)
        is_recurrent = any(isinstance(part, nn.RNNBase) for part in module.modules())
        if not is_recurrent and self._can(mapped, batches):  # torch maps those one at a time
            return Clipped([mapped], _at_once(right[-1]))
        return Clipped([alone], _at_once(right[-1]))

    def _first(self, data: Rows | Items, count: int) -> Tensor:
        return torch.arange(count, device=self.model.device) % data.n

    def _can(self, mapped: Mapped, batches: Sequence[Any]) -> bool:
        self.model.training()
        try:
            mapped(*batches[0])
        except RuntimeError:  # an operation that cannot be mapped
            return False
        return True

    def _check_apart(self, data: Rows | Items) -> None:
        """Raise TaskError if the output of a row depends on another's, or buffers change."""
        inputs, _ = data.batch(self._first(data, 2))
        same = torch.zeros(2, dtype=torch.int64, device=self.model.device)
        others = tuple(part.index_select(0, same) for part in inputs)
        module = self.model.training()
        before = {name: buffer.clone() for name, buffer in module.named_buffers()}
        state = torch.default_generator.get_state()
        outputs = list[Tensor]()
        with torch.no_grad():
            for each in (inputs, others):
                torch.default_generator.set_state(state)
                outputs.append(module(*each))
        if not _is_close(outputs[0][0], outputs[1][0]):
            raise TaskError(
                "the model's output for one row depends on the other rows of its batch, so that "
                "clipping one example's gradient bounds nothing",
                hint="normalise and attend within a row only: LayerNorm, GroupNorm",
            )
        changed = [n for n, b in module.named_buffers() if not torch.equal(b, before[n])]
        if changed:
            raise TaskError(
                f"the model changes its buffer {changed[0]} as it trains, and [local.privacy] has "
                "no noise for it",
                hint="leave running statistics out of the model",
            )


def _at_once(tried: Each) -> int:
    """Return how many examples' gradients may be written out at once, after a few were."""
    return max(1, WRITTEN * tried.count // max(1, tried.written()))


def _agrees(found: Each | None, right: Each) -> bool:
    """Return whether two ways have the same norms, as far as rounding lets them."""
    return found is not None and _is_close(found.norms(), right.norms())


def _is_close(one: Tensor, two: Tensor) -> bool:
    scale = float(two.abs().max()) if two.numel() else 0.0
    return torch.allclose(one, two, rtol=APART, atol=APART * scale, equal_nan=True)
