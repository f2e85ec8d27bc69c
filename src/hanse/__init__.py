"""Hanse: federated learning for data that may not be pooled."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hanse.core import metrics
    from hanse.core.pipeline import Pipeline
    from hanse.core.reduce import Sum
    from hanse.core.samplers import All, FixedSize, Poisson
    from hanse.core.spec import Evaluation, Privacy, Quorum, RunSpec
    from hanse.core.weight import Weight
    from hanse.core.work import LocalPrivacy, LocalTraining
    from hanse.data.schema import AtLeast, Category, Integer, Number, Schema
    from hanse.data.site import Site
    from hanse.errors import (
        BudgetError,
        ConfigError,
        DataError,
        HanseError,
        PipelineError,
        ProtocolError,
        TaskError,
        TransportError,
    )
    from hanse.privacy import (
        AdaptiveClip,
        Clip,
        GaussianNoise,
        LocalGaussianNoise,
        Rotate,
        ScaledRound,
        SkellamNoise,
    )
    from hanse.sim.audit import audit_run
    from hanse.sim.faults import Faults
    from hanse.sim.membership import audit_membership
    from hanse.sim.process import process
    from hanse.sim.result import Result
    from hanse.sim.run import Run
    from hanse.sim.simulate import simulate
    from hanse.sim.spending import Budget
    from hanse.strategies import (
        Strategy,
        fedadagrad,
        fedadam,
        fedavg,
        fedavgm,
        fedprox,
        fedsgd,
        fedyogi,
    )

__version__ = "0.1.0"

__all__ = [
    "AdaptiveClip",
    "All",
    "AtLeast",
    "Budget",
    "BudgetError",
    "Category",
    "Clip",
    "ConfigError",
    "DataError",
    "Evaluation",
    "Faults",
    "FixedSize",
    "GaussianNoise",
    "HanseError",
    "Integer",
    "LocalGaussianNoise",
    "LocalPrivacy",
    "LocalTraining",
    "Number",
    "Pipeline",
    "PipelineError",
    "Poisson",
    "Privacy",
    "ProtocolError",
    "Quorum",
    "Result",
    "Rotate",
    "Run",
    "RunSpec",
    "ScaledRound",
    "Schema",
    "Site",
    "SkellamNoise",
    "Strategy",
    "Sum",
    "TaskError",
    "TransportError",
    "Weight",
    "__version__",
    "audit_membership",
    "audit_run",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedprox",
    "fedsgd",
    "fedyogi",
    "metrics",
    "process",
    "simulate",
]

# A name is imported when it is first used: a site's agent starts without the simulator.
_HOMES = {
    "hanse.core": ("metrics",),
    "hanse.core.pipeline": ("Pipeline",),
    "hanse.core.reduce": ("Sum",),
    "hanse.core.samplers": ("All", "FixedSize", "Poisson"),
    "hanse.core.spec": ("Evaluation", "Privacy", "Quorum", "RunSpec"),
    "hanse.core.weight": ("Weight",),
    "hanse.core.work": ("LocalPrivacy", "LocalTraining"),
    "hanse.data.schema": ("AtLeast", "Category", "Integer", "Number", "Schema"),
    "hanse.data.site": ("Site",),
    "hanse.errors": tuple(name for name in __all__ if name.endswith("Error")),
    "hanse.privacy": (
        *("AdaptiveClip", "Clip", "GaussianNoise", "LocalGaussianNoise"),
        *("Rotate", "ScaledRound", "SkellamNoise"),
    ),
    "hanse.sim.faults": ("Faults",),
    "hanse.sim.process": ("process",),
    "hanse.sim.result": ("Result",),
    "hanse.sim.run": ("Run",),
    "hanse.sim.audit": ("audit_run",),
    "hanse.sim.membership": ("audit_membership",),
    "hanse.sim.simulate": ("simulate",),
    "hanse.sim.spending": ("Budget",),
    "hanse.strategies": ("Strategy", *(name for name in __all__ if name.startswith("fed"))),
}
_PACKAGES = ("data", "privacy", "train")
"""Packages that users reach as ``hanse.train.torch`` without an import of their own."""
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives."""
    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(_HOME_OF[name])
    found = getattr(home, name, None) or import_module(f"{_HOME_OF[name]}.{name}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List the public names."""
    return sorted({*globals(), *__all__})
