"""Rounds of pfl-research, in one process: its SimulatedBackend and FederatedAveraging.

    pfl_runner.py JOB

Speaks as ``runner.py`` does. The users' data are tensors in memory, the cohort is given by a user
sampler, updates are weighted by data points. pfl evaluates in the first round, whatever it is told;
later rounds only train. It does not shuffle a user's data, which the other sides do. Its metrics
are not printed.
"""

import sys
from collections.abc import Iterator
from itertools import count

import torch
from jobs import JOBS, cohort
from meter import norms, rounds
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn


class Net(nn.Module):
    """A job's network with the methods that pfl asks for."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.entropy = inner, nn.CrossEntropyLoss()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.entropy(self.inner(x), y)

    @torch.no_grad()
    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Weighted]:
        return {"loss": Weighted(self.loss(x, y).item() * len(y), len(y))}

    def vector(self) -> Tensor:
        return nn.utils.parameters_to_vector(self.parameters()).detach()


class Turns(TrainingProcessCallback):
    """Has pfl wait for the next round, and stop when there is none."""

    def __init__(self, turns: Iterator[int]) -> None:
        self.turns = turns

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        next(self.turns)
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        return next(self.turns, None) is None, Metrics()


def main() -> None:
    """Train until standard input ends."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    job = JOBS[sys.argv[1]]
    net = Net(job.model())
    start = net.vector()
    turns = rounds(lambda: norms(net.vector().numpy(), start.numpy()))
    data = {c: [torch.from_numpy(one) for one in rows] for c, rows in job.data().items()}
    users = (user for number in count(1) for user in cohort(job, [*data], number))
    training = FederatedDataset.from_slices(data, lambda: next(users))
    model = PyTorchModel(
        model=net,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0),
    )
    FederatedAveraging().run(
        backend=SimulatedBackend(
            training_data=training, val_data=training, postprocessors=[WeightByDatapoints()]
        ),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_batch_size=job.batch, local_num_epochs=1, local_learning_rate=job.lr
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=10**9,
            evaluation_frequency=10**9,
            train_cohort_size=job.cohort,
            val_cohort_size=None,
        ),
        callbacks=[Turns(turns)],
        send_metrics_to_platform=False,
    )


if __name__ == "__main__":
    main()
