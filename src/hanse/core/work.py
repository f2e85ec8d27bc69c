"""What a program asks of a client, as values: train, evaluate, or compute a named sum."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from hanse.core.canonical import Json
from hanse.errors import ConfigError

OptimizerName = Literal["sgd", "adam", "adamw", "task"]


@dataclass(frozen=True, slots=True)
class LocalTraining:
    """How a client trains between two rounds.

    ``optimizer``: ``sgd`` (momentum as PyTorch defines it: v ← μv + g, w ← w − lr·v), ``adam``
    (arXiv:1412.6980), ``adamw`` (arXiv:1711.05101), or ``task`` for the one that the task brings.
    Optimiser state starts anew each round. ``epochs`` passes over the client's data in batches of
    ``batch_size`` (None: all at once), shuffled anew each epoch; the last batch may be smaller.
    ``steps``: so many batches in place of ``epochs``, in as many passes as that takes. ``threads``
    are per client, and part of the result: two threads give other bits than one.
    """

    optimizer: OptimizerName = "sgd"
    lr: float = 0.1
    epochs: int = 1
    batch_size: int | None = 32
    steps: int | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    threads: int = 1
    amp: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that cannot train anything."""
        if self.optimizer not in ("sgd", "adam", "adamw", "task"):
            raise ConfigError(
                f"optimizer {self.optimizer!r} is unknown", hint="use sgd, adam, adamw or task"
            )
        for name in ("epochs", "batch_size", "steps", "threads"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(
                    f"local {name} = {value} trains nothing", hint=f"give {name} of 1 or more"
                )
        for name in ("lr", "momentum", "weight_decay", "eps"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(
                    f"local {name} = {value} is not a number of 0 or more", hint=f"change {name}"
                )

    def settings(self) -> dict[str, Json]:
        """Return the settings as a table of a run file, unset ones left out."""
        chosen: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        chosen["batch_size"] = "all" if self.batch_size is None else self.batch_size
        return {k: list(v) if k == "betas" else v for k, v in chosen.items() if v is not None}


def steps_of(n: Any, local: LocalTraining) -> Any:
    """Return how many steps a client with ``n`` examples takes; arrays give arrays."""
    return (
        local.epochs * -(-n // (local.batch_size or n))
        if local.steps is None
        else 0 * n + local.steps
    )


def seen_of(n: Any, local: LocalTraining) -> Any:
    """Return how many examples those steps see, each as often as it is seen; as ``steps_of``."""
    if local.steps is None:
        return local.epochs * n
    size = n if local.batch_size is None else local.batch_size
    a_pass = -(-n // size)
    passes, rest = local.steps // a_pass, local.steps % a_pass
    return passes * n + rest * size  # only the last batch of a pass is smaller


@dataclass(frozen=True, slots=True)
class Proximal:
    """Gradient correction μ·(w − w_start), of μ/2·‖w − w_start‖² (arXiv:1812.06127)."""

    mu: float

    def __post_init__(self) -> None:
        """Refuse a μ that pulls away from the start."""
        if not 0 <= self.mu < math.inf:
            raise ConfigError(f"mu = {self.mu} is not a number of 0 or more", hint="give mu >= 0")


@dataclass(frozen=True, slots=True)
class Train:
    """Train from the model in the payload; report the update, examples, steps and loss."""

    local: LocalTraining
    correction: Proximal | None = None


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Evaluate the model in the payload on the client's test data; report counts only."""


@dataclass(frozen=True, slots=True)
class Compute:
    """Compute the sum that the task calls ``name`` (statistics, histograms)."""

    name: str


Work = Train | Evaluate | Compute
