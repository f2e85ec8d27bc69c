"""The example steps that every law runs on. A new step's main test is its line here."""

from dataclasses import dataclass

from hanse.core.pipeline import Pipeline
from hanse.core.reduce import Sum
from hanse.core.step import Step
from hanse.core.weight import Weight
from hanse.privacy import (
    AdaptiveClip,
    Clip,
    GaussianNoise,
    LocalGaussianNoise,
    Rotate,
    ScaledRound,
    SkellamNoise,
)


@dataclass(frozen=True)
class Example:
    """A step, and what it needs before it."""

    step: Step
    before: tuple[Step, ...] = ()
    unit: float = 1.0
    """What its decode multiplies the total by."""
    error: float = 0.0
    """By how much a coordinate of a share, as it is decoded, is off what the bounds let through."""
    total_error: float = 0.0
    """The same of the total: what noise in it may come to."""

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline((*self.before, self.step))

    def __str__(self) -> str:
        return repr(self.step)


PRIVATE = (Weight(by="examples", cap=300, denominator=2.5), Clip(0.75))

WHOLE = (*PRIVATE, ScaledRound(bits=10))
STEP = 0.75 / 2**10
ROTATED = (*PRIVATE, Rotate(largest=8), ScaledRound(bits=10))

EXAMPLES = (
    Example(Weight(by="uniform")),
    Example(Weight(by="examples")),
    Example(Weight(by="examples", cap=300)),
    Example(Weight(by="steps", cap=7.5, denominator=3)),
    Example(Weight(by="steps", denominator=10.0)),
    Example(Clip(norm=1.0)),
    Example(Clip(norm=3)),
    Example(Clip(norm=1e-6)),
    Example(Clip(norm=2.0**-64)),
    Example(Clip(norm=2.0**64)),
    Example(Clip(norm=0.1), before=(Weight(by="examples"),)),
    Example(AdaptiveClip(), unit=1.0),
    Example(AdaptiveClip(1e-6, quantile=0.9), before=(Weight(by="examples"),), unit=1e-6),
    Example(AdaptiveClip(initial=300.0, cohort=10.0), unit=300.0),
    Example(GaussianNoise(noise_multiplier=1.0), before=PRIVATE),
    Example(GaussianNoise(noise_multiplier=0.01), before=PRIVATE),
    Example(GaussianNoise(noise_multiplier=100), before=PRIVATE),
    Example(GaussianNoise(1.0), before=WHOLE, error=STEP),
    Example(GaussianNoise(1.0), before=(*PRIVATE, Rotate()), error=1e-6),
    Example(LocalGaussianNoise(noise_multiplier=1.0), before=PRIVATE),
    Example(LocalGaussianNoise(noise_multiplier=0.01), before=PRIVATE),
    Example(LocalGaussianNoise(noise_multiplier=100), before=PRIVATE),
    Example(Rotate(), before=(Clip(3.0),), error=1e-6),
    Example(Rotate(largest=1), before=(Clip(1e-6),), error=1e-12),
    Example(Rotate(largest=4), before=PRIVATE, error=1e-6),
    Example(ScaledRound(), before=(Clip(1.0),), error=2.0**-14),
    Example(ScaledRound(bits=4), before=(Weight(by="examples"), Clip(1.0)), error=2.0**16),
    Example(ScaledRound(bits=22), before=PRIVATE, error=0.75 / 2**22),
    Example(ScaledRound(bits=10), before=(*PRIVATE, Rotate()), error=4 * STEP),
    Example(SkellamNoise(1.0, honest=3, colluding=2), before=WHOLE, error=STEP, total_error=10.0),
    Example(SkellamNoise(0.01, honest=1), before=WHOLE, error=STEP, total_error=0.15),
    Example(SkellamNoise(100, honest=5), before=ROTATED, error=4 * STEP, total_error=700.0),
    Example(Sum()),
    Example(Sum(limit=8.0)),
    Example(Sum(limit=1e-3), before=(Clip(1.0),)),
)
