"""Server optimisers: how the global model moves along the mean update of a round.

SGD, SGD with momentum, and the three adaptive ones of Reddi et al. (arXiv:2003.00295, Algorithm 2).
All compute in float64 with + − × ÷ √ (and a sign) only, each correctly rounded by IEEE 754, so that
the bits are the same on every machine. They see the total after its noise and add no protection.

Δ is the mean update, which points where clients moved; x, m, v are the model and the slots; all
operations are per coordinate. A coordinate that never moves (padding) keeps its value.
"""

import math
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from hanse.core.canonical import Json
from hanse.errors import ConfigError
from hanse.strategies.strategy import Floats, Slots


def _check_positive(what: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ConfigError(
            f"a {what} of {value} is not a positive number", hint=f"give a {what} above 0"
        )


def _check_decay(what: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ConfigError(
            f"a {what} of {value} is outside [0, 1)",
            hint=f"give a {what} of 0 or more and below 1; 0.9 is common",
        )


def _settings(optimizer: "Sgd | Momentum | Adaptive") -> dict[str, Json]:
    chosen = {f.name: getattr(optimizer, f.name) for f in fields(optimizer)}
    return {"name": optimizer.name} | chosen


@dataclass(frozen=True)
class Sgd:
    """x ← x + lr·Δ."""

    lr: float

    name: ClassVar[str] = "sgd"

    def __post_init__(self) -> None:
        """Refuse a rate that does not follow the update."""
        _check_positive("server learning rate", self.lr)

    def start(self, size: int) -> Slots:
        """Return no slots."""
        return {}

    def apply(self, parameters: Floats, update: Floats, slots: Slots) -> tuple[Floats, Slots]:
        """Take one step."""
        return parameters + self.lr * update, slots

    def settings(self) -> dict[str, Json]:
        """Return name and settings."""
        return _settings(self)


@dataclass(frozen=True)
class Momentum:
    """v ← momentum·v + Δ; x ← x + lr·v; v starts at 0 (heavy ball, no dampening, no Nesterov)."""

    lr: float
    momentum: float

    name: ClassVar[str] = "momentum"

    def __post_init__(self) -> None:
        """Refuse a rate that does not follow the update, a momentum that does not fade."""
        _check_positive("server learning rate", self.lr)
        _check_decay("momentum", self.momentum)

    def start(self, size: int) -> Slots:
        """Return a velocity of zeros."""
        return {"velocity": np.zeros(size)}

    def apply(self, parameters: Floats, update: Floats, slots: Slots) -> tuple[Floats, Slots]:
        """Take one step."""
        velocity = self.momentum * slots["velocity"] + update
        return parameters + self.lr * velocity, {"velocity": velocity}

    def settings(self) -> dict[str, Json]:
        """Return name and settings."""
        return _settings(self)


@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """m ← beta1·m + (1 − beta1)·Δ; v ← as the subclass says; x ← x + lr·m/(√v + tau).

    m starts at 0, v at ``initial_accumulator``. Like Algorithm 2 it has no bias correction.
    """

    lr: float
    beta1: float
    tau: float
    initial_accumulator: float

    name: ClassVar[str]

    def __post_init__(self) -> None:
        """Refuse settings under which the step is not defined."""
        _check_positive("server learning rate", self.lr)
        _check_positive("tau", self.tau)
        _check_decay("beta1", self.beta1)
        if not 0 <= self.initial_accumulator < math.inf:
            raise ConfigError(
                f"an initial_accumulator of {self.initial_accumulator} is not 0 or more",
                hint="leave it out for tau², the least that the paper takes, or give 0 or more",
            )

    def second_moment(self, v: Floats, square: Floats) -> Floats:
        """Return the next v from the last and ``square``, which is Δ²."""
        raise NotImplementedError

    def start(self, size: int) -> Slots:
        """Return m = 0 and v = ``initial_accumulator``."""
        return {"m": np.zeros(size), "v": np.full(size, float(self.initial_accumulator))}

    def apply(self, parameters: Floats, update: Floats, slots: Slots) -> tuple[Floats, Slots]:
        """Take one step."""
        m = self.beta1 * slots["m"] + (1 - self.beta1) * update
        v = self.second_moment(slots["v"], update * update)
        return parameters + self.lr * m / (np.sqrt(v) + self.tau), {"m": m, "v": v}

    def settings(self) -> dict[str, Json]:
        """Return name and settings."""
        return _settings(self)


@dataclass(frozen=True, kw_only=True)
class Adagrad(Adaptive):
    """v ← v + Δ²."""

    name: ClassVar[str] = "adagrad"

    def second_moment(self, v: Floats, square: Floats) -> Floats:
        """Return the sum of all squares so far."""
        return v + square


@dataclass(frozen=True, kw_only=True)
class Adam(Adaptive):
    """v ← beta2·v + (1 − beta2)·Δ²."""

    beta2: float

    name: ClassVar[str] = "adam"

    def __post_init__(self) -> None:
        """Refuse settings under which the step is not defined."""
        Adaptive.__post_init__(self)
        _check_decay("beta2", self.beta2)

    def second_moment(self, v: Floats, square: Floats) -> Floats:
        """Return the running mean of squares."""
        return self.beta2 * v + (1 - self.beta2) * square


@dataclass(frozen=True, kw_only=True)
class Yogi(Adaptive):
    """v ← v − (1 − beta2)·Δ²·sign(v − Δ²): v grows fast and shrinks slowly."""

    beta2: float

    name: ClassVar[str] = "yogi"

    def __post_init__(self) -> None:
        """Refuse settings under which the step is not defined."""
        Adaptive.__post_init__(self)
        _check_decay("beta2", self.beta2)

    def second_moment(self, v: Floats, square: Floats) -> Floats:
        """Return v moved towards Δ² by (1 − beta2)·Δ²."""
        return v - (1 - self.beta2) * square * np.sign(v - square)
