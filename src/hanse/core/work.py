"""What a program asks of a client, as values: train, evaluate, or compute a named sum."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from hanse.core.canonical import Json
from hanse.errors import ConfigError

OptimizerName = Literal["sgd", "adam", "adamw", "task"]
InTraining = Literal["example", "person"]
MOST_ROWS = 1_000_000
LEAST_CLIP, LARGEST_CLIP = 2.0**-40, 2.0**40
LARGEST_MULTIPLIER = 100.0


@dataclass(frozen=True, slots=True)
class LocalPrivacy:
    """Training at a client by DP-SGD (Abadi et al., arXiv:1607.00133), which hides one example, or
    one person.

    Each step takes each of the client's examples by itself with probability ``sampling_rate``
    (Poisson), clips the gradient of each one taken to L2 norm ``clip``, sums them, adds Gaussian
    noise of standard deviation ``noise_multiplier``·``clip`` to each coordinate, and divides by the
    run's ``batch_size``, whatever the number taken; with none taken it is the noise alone. The
    number of steps is the run's ``steps``.

    Neighbours are two data sets of one client, of which one lacks an example. Nothing in a step but
    the sum depends on the data: rate, divisor and number of steps are in the run file, for all
    clients alike, so that how many examples a client has need not be public. (The rate batch/n of
    other systems, and a mean over the batch, change with every example that is added.) The sum
    moves by at most ``clip``. So a step is a Gaussian mechanism of a Poisson sample, and a round is
    as many of them as there are steps; the optimiser, weight decay, a correction of the strategy's,
    and all that the pipeline does to the update come after it, and cost nothing.

    What is hidden is one row of data: a person of whom there are k rows is hidden k times worse.
    With ``unit = "person"`` it is all rows of a person at this client. Then each *person* is taken
    by itself with ``sampling_rate``; of more than ``rows_per_person`` rows so many are drawn, by
    secret chance; and of m rows each gradient is clipped to ``clip``/m. So all that a person adds
    to the sum is at most ``clip`` long, and m, like the draw, follows from that person's rows
    alone: neighbours, of whom one lacks a person, are told apart as little as those that lack an
    example. A person at up to ``sites_per_person`` s clients is in s such mechanisms, each with
    noise of its own: theirs compose, s times as many steps.

    Counts that follow from the data (examples, loss) stay at the client. Not hidden: that the
    client takes part, and failures that its data provoke.
    """

    clip: float
    noise_multiplier: float
    sampling_rate: float
    unit: InTraining = "example"
    rows_per_person: int | None = None
    sites_per_person: int = 1

    def __post_init__(self) -> None:
        """Refuse numbers that bound or hide nothing."""
        if self.unit not in ("example", "person"):
            raise ConfigError(
                f'unit = "{self.unit}" in [local.privacy]: examples or persons are hidden there',
                hint='write unit = "example" or "person"; a whole client is hidden by noise in the '
                "pipeline",
            )
        self._check_persons()
        if not LEAST_CLIP <= self.clip <= LARGEST_CLIP:
            raise ConfigError(
                f"clip = {self.clip:g} in [local.privacy] bounds no gradient",
                hint="give the L2 norm of one example's gradient; 1.0 is a common start",
            )
        if not 0 < self.noise_multiplier <= LARGEST_MULTIPLIER:
            raise ConfigError(
                f"noise_multiplier = {self.noise_multiplier:g} in [local.privacy] is not in "
                f"(0, {LARGEST_MULTIPLIER:g}]",
                hint="give noise_multiplier around 1; more noise gives more privacy",
            )
        if not 0 < self.sampling_rate <= 1:
            raise ConfigError(
                f"sampling_rate = {self.sampling_rate:g} in [local.privacy] is no probability",
                hint="give batch_size over the number of rows that a site has, about",
            )

    def _check_persons(self) -> None:
        rows, sites = self.rows_per_person, self.sites_per_person
        for name, number in (("rows_per_person", rows), ("sites_per_person", sites)):
            if number is not None and (type(number) is not int or not 1 <= number <= MOST_ROWS):
                raise ConfigError(
                    f"{name} = {number} in [local.privacy] is no number of them",
                    hint=f"give a whole number from 1 to {MOST_ROWS}",
                )
        if self.unit == "example" and (rows is not None or sites != 1):
            raise ConfigError(
                'rows_per_person or sites_per_person beside unit = "example" in [local.privacy]',
                hint='write unit = "person", and say in data(site) whose each row is: '
                "hanse.data.OfPersons(train, ids)",
            )

    def settings(self) -> dict[str, Json]:
        """Return the settings as a table of a run file, those of the other unit left out."""
        told = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.unit == "example":
            del told["sites_per_person"]
        return {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True, slots=True)
class LocalTraining:
    """How a client trains between two rounds.

    ``optimizer``: ``sgd`` (momentum as PyTorch defines it: v ← μv + g, w ← w − lr·v), ``adam``
    (arXiv:1412.6980), ``adamw`` (arXiv:1711.05101), or ``task`` for the one that the task brings.
    Optimiser state starts anew each round. ``epochs`` passes over the client's data in batches of
    ``batch_size`` (None: all at once), shuffled anew each epoch; the last batch may be smaller.
    ``steps``: so many batches in place of ``epochs``, in as many passes as that takes. ``threads``
    are per client, and part of the result: two threads give other bits than one.

    ``privacy``: train so that a single example is hidden. Then ``steps`` are needed, each of which
    takes examples by chance, and ``batch_size`` is what the sum of their gradients is divided by.
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
    privacy: LocalPrivacy | None = None

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
        if self.privacy is not None:
            self._check_private()

    @property
    def example_multiplier(self) -> float:
        """The multiplier of the noise that hides single examples; 0 for none."""
        return 0.0 if self.privacy is None else self.privacy.noise_multiplier

    @property
    def hides_persons(self) -> bool:
        """Whether all rows of a person are hidden together: whose they are has to be said."""
        return self.privacy is not None and self.privacy.unit == "person"

    def _check_private(self) -> None:
        if self.steps is None:
            raise ConfigError(
                "[local.privacy] needs [local] steps: how many follow from epochs depends on how "
                "many examples a client has, which nobody is to learn",
                hint="write steps = ..., such as rows/batch_size of a site, about",
            )
        if self.batch_size is None:
            raise ConfigError(
                'batch_size = "all" beside [local.privacy]: the sum of gradients is divided by it, '
                "and how many examples a client has is not to be learned",
                hint="give sampling_rate times the rows of a site, about, as a number",
            )
        if self.amp:
            raise ConfigError(
                "amp = true beside [local.privacy]: norms in half precision bound nothing",
                hint="leave amp out",
            )

    def settings(self) -> dict[str, Json]:
        """Return the settings as a table of a run file, unset ones left out."""
        chosen: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        chosen["batch_size"] = "all" if self.batch_size is None else self.batch_size
        if self.privacy is not None:
            chosen["privacy"] = self.privacy.settings()
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
