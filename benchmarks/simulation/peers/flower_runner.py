"""Rounds of Flower's simulation with Ray, two actors of one processor each.

    flower_runner.py JOB

Speaks as ``runner.py`` does. ``run_simulation`` drives the engine that ``flwr run`` drives too;
FedAvg is as shipped, without evaluation. There are as many SuperNodes as train in a round, and each
is told by its number which client of the round's cohort it is: all of them train in every round,
which is the cheaper case for Flower, whose engine looks at every SuperNode ten times a second.
Actors make the data once and keep them. Its log of each round is off.
"""

import logging
import sys

import numpy as np
import torch
from flower_client import app
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from jobs import JOBS
from meter import norms, rounds

server = ServerApp()
ACTORS = 2


def flat(arrays: ArrayRecord) -> np.ndarray:
    return np.concatenate([one.ravel() for one in arrays.to_numpy_ndarrays()])


class Asked(FedAvg):
    """Waits for the next round, and ends the run when there is none."""

    def __init__(self, nodes: int, arrays: ArrayRecord) -> None:
        every = {"min_train_nodes": nodes, "min_available_nodes": nodes}
        super().__init__(fraction_train=1.0, fraction_evaluate=0.0, **every)
        self.nodes, self.last, self.first = nodes, arrays, flat(arrays)
        self.turns = rounds(lambda: norms(flat(self.last), self.first))

    def configure_train(self, server_round, arrays, config, grid):
        self.last = arrays
        if next(self.turns, None) is None:
            raise EOFError
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        counted = sum(reply.has_content() for reply in replies)
        assert counted == self.nodes, f"{counted} of {self.nodes} nodes trained"
        return super().aggregate_train(server_round, replies)


@server.main()
def main(grid: Grid, context: Context) -> None:
    torch.manual_seed(0)
    name = sys.argv[1]
    arrays = ArrayRecord(JOBS[name].model().state_dict())
    strategy = Asked(JOBS[name].cohort, arrays)
    told = ConfigRecord({"job": name})
    strategy.start(grid, arrays, num_rounds=10**9, train_config=told)


if __name__ == "__main__":
    logging.getLogger("flwr").setLevel(logging.ERROR)
    try:
        run_simulation(
            server,
            app,
            num_supernodes=JOBS[sys.argv[1]].cohort,
            backend_config={
                "init_args": {"address": "local", "num_cpus": ACTORS},
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            },
        )
    except EOFError:
        sys.exit()
