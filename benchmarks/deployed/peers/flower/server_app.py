"""FedAvg as Flower ships it, of a random vector, that marks the end of each round."""

import time

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Marked(FedAvg):
    """Writes a line when a round's average is there: the time, and how many sites are in it."""

    def __init__(self, marks: str, sites: int) -> None:
        every = {"min_train_nodes": sites, "min_available_nodes": sites}
        super().__init__(fraction_train=1.0, fraction_evaluate=0.0, **every)
        self.marks, self.first = marks, 0.0

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        arrays, metrics = super().aggregate_train(server_round, replies)
        counted = sum(reply.has_content() for reply in replies)
        with open(self.marks, "a") as file:
            file.write(f"{time.monotonic()} {counted}\n")
        first = arrays.to_numpy_ndarrays()[0][0]
        assert first > self.first, "the sites' constants are not in the average"
        self.first = first
        return arrays, metrics


@app.main()
def main(grid: Grid, context: Context) -> None:
    told = context.run_config
    vector = np.random.default_rng(0).random(told["parameters"], dtype=np.float32)
    strategy = Marked(told["marks"], told["sites"])
    strategy.start(grid, ArrayRecord([vector]), num_rounds=told["rounds"])
