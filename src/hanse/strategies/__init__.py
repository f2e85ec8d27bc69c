"""Federated algorithms, one paper a file; each is a function that returns a Strategy."""

from hanse.strategies.fedadagrad import fedadagrad
from hanse.strategies.fedadam import fedadam
from hanse.strategies.fedavg import fedavg
from hanse.strategies.fedavgm import fedavgm
from hanse.strategies.fedprox import fedprox
from hanse.strategies.fedsgd import fedsgd
from hanse.strategies.fedyogi import fedyogi
from hanse.strategies.strategy import GlobalModel, ServerOptimizer, Strategy, StrategyProgram

__all__ = [
    "GlobalModel",
    "ServerOptimizer",
    "Strategy",
    "StrategyProgram",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedprox",
    "fedsgd",
    "fedyogi",
]
