"""The example steps that every law runs on. A new step's main test is its line here."""

from dataclasses import dataclass

from hanse.core.pipeline import Pipeline
from hanse.core.reduce import Sum
from hanse.core.step import Step
from hanse.core.weight import Weight
from hanse.privacy import AdaptiveClip, Clip, GaussianNoise, LocalGaussianNoise


@dataclass(frozen=True)
class Example:
    """A step, and what it needs before it."""

    step: Step
    before: tuple[Step, ...] = ()
    unit: float = 1.0
    """What its decode multiplies the total by."""

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline((*self.before, self.step))

    def __str__(self) -> str:
        return repr(self.step)


PRIVATE = (Weight(by="examples", cap=300, denominator=2.5), Clip(0.75))

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
    Example(LocalGaussianNoise(noise_multiplier=1.0), before=PRIVATE),
    Example(LocalGaussianNoise(noise_multiplier=0.01), before=PRIVATE),
    Example(LocalGaussianNoise(noise_multiplier=100), before=PRIVATE),
    Example(Sum()),
    Example(Sum(limit=8.0)),
    Example(Sum(limit=1e-3), before=(Clip(1.0),)),
)
