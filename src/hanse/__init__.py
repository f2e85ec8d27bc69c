"""Hanse: federated learning for data that may not be pooled."""

from hanse.core import metrics
from hanse.core.pipeline import Pipeline
from hanse.core.reduce import Sum
from hanse.core.samplers import All, FixedSize, Poisson
from hanse.core.spec import Evaluation, Quorum, RunSpec
from hanse.core.weight import Weight
from hanse.core.work import LocalTraining
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
from hanse.privacy import Clip, GaussianNoise
from hanse.sim.faults import Faults
from hanse.sim.process import process
from hanse.sim.result import Result
from hanse.sim.run import Run
from hanse.sim.simulate import simulate
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
    "All",
    "BudgetError",
    "Clip",
    "ConfigError",
    "DataError",
    "Evaluation",
    "Faults",
    "FixedSize",
    "GaussianNoise",
    "HanseError",
    "LocalTraining",
    "Pipeline",
    "PipelineError",
    "Poisson",
    "ProtocolError",
    "Quorum",
    "Result",
    "Run",
    "RunSpec",
    "Site",
    "Strategy",
    "Sum",
    "TaskError",
    "TransportError",
    "Weight",
    "__version__",
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
