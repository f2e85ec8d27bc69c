"""One side of a comparison, in a process of its own: does rounds when it is told to.

    python benchmarks/simulation/runner.py JOB SIDE

reads numbers from standard input, does so many rounds, and answers each with a line of JSON:
processor and wall seconds a round, of the whole tree of processes (``meter.py``).
"""

import multiprocessing
import sys
import time
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from jobs import JOBS, Job, cohort
from meter import norms, rounds
from torch import nn

from hanse.core.samplers import FixedSize


class Naive:
    """The loop that one would write by hand, on one core."""

    def __init__(self, job: Job) -> None:
        torch.manual_seed(0)
        self.job, self.model, self.loss = job, job.model(), nn.CrossEntropyLoss()
        self.start = self.weights()
        data = job.data().items()
        self.data = {c: (torch.from_numpy(x), torch.from_numpy(y)) for c, (x, y) in data}

    def weights(self) -> np.ndarray:
        return nn.utils.parameters_to_vector(self.model.parameters()).detach().numpy()

    def told(self) -> dict[str, float]:
        return norms(self.weights(), self.start)

    def round(self, number: int) -> None:
        start = {name: value.clone() for name, value in self.model.state_dict().items()}
        deltas, sizes = [], []
        for client in cohort(self.job, [*self.data], number):
            x, y = self.data[client]
            self.model.load_state_dict(start)
            optimizer = torch.optim.SGD(self.model.parameters(), lr=self.job.lr)
            for index in torch.randperm(len(y)).split(self.job.batch):
                optimizer.zero_grad()
                self.loss(self.model(x[index]), y[index]).backward()
                optimizer.step()
            after = self.model.state_dict()
            deltas.append({name: after[name] - start[name] for name in start})
            sizes.append(len(y))
        for name, value in start.items():
            for delta, size in zip(deltas, sizes, strict=True):
                value.add_(delta[name], alpha=size / sum(sizes))
        self.model.load_state_dict(start)

    def close(self) -> None:
        pass


class Bare:
    """The best loop that one would write by hand for several cores: flat vectors, forked workers,
    sums in shared memory, freed memory kept; any model by autograd.
    """

    def __init__(self, job: Job, workers: int) -> None:
        from hanse.train.exact import kept_memory

        self.inside = ExitStack()
        self.inside.enter_context(kept_memory())
        torch.manual_seed(0)
        self.job, self.loss = job, nn.CrossEntropyLoss()
        self.module = job.model()
        self.parameters = [*self.module.parameters()]
        size = sum(p.numel() for p in self.parameters)
        self.shared = torch.zeros(workers + 1, size).share_memory_()
        self.shared[0] = nn.utils.parameters_to_vector(self.parameters).detach()
        data = job.data().items()
        self.data = {c: (torch.from_numpy(x), torch.from_numpy(y)) for c, (x, y) in data}
        context = multiprocessing.get_context("fork")
        self.pipes = list[Any]()
        for index in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=self.work, args=(theirs, index), daemon=True)
            process.start()
            self.pipes.append(ours)

    def work(self, pipe: Any, index: int) -> None:
        torch.set_num_threads(1)
        while (clients := pipe.recv()) is not None:
            total = self.shared[index + 1].zero_()
            for client in clients:
                total.add_(self.trained(client), alpha=len(self.data[client][1]))
            pipe.send(None)

    def trained(self, client: str) -> torch.Tensor:
        x, y = self.data[client]
        nn.utils.vector_to_parameters(self.shared[0].clone(), self.parameters)
        for index in torch.randperm(len(y)).split(self.job.batch):
            inputs = x[index]
            if inputs.ndim == 4:
                inputs = inputs.to(memory_format=torch.channels_last)
            grads = torch.autograd.grad(self.loss(self.module(inputs), y[index]), self.parameters)
            with torch.no_grad():
                torch._foreach_add_(self.parameters, grads, alpha=-self.job.lr)
        return nn.utils.parameters_to_vector(self.parameters).detach().sub_(self.shared[0])

    def told(self) -> dict[str, float]:
        return {}

    def round(self, number: int) -> None:
        chosen = cohort(self.job, [*self.data], number)
        for index, pipe in enumerate(self.pipes):
            pipe.send(chosen[index :: len(self.pipes)])
        for pipe in self.pipes:
            pipe.recv()
        whole = sum(len(self.data[client][1]) for client in chosen)
        self.shared[0] += self.shared[1:].sum(0) / whole

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)


class Ours:
    """The same through the pipeline: weight, clip, exact sum."""

    def __init__(self, job: Job, engine: str, workers: int) -> None:
        import hanse
        from hanse.sim.pool import open_pool
        from hanse.sim.population import Given
        from hanse.sim.rounds import perform
        from hanse.strategies import StrategyProgram
        from hanse.train.torch import TorchTask

        task = TorchTask(model=job.model, loss=nn.CrossEntropyLoss())
        local = hanse.LocalTraining(optimizer="sgd", lr=job.lr, epochs=1, batch_size=job.batch)
        steps = hanse.Pipeline([hanse.Weight(by="examples", cap=200), hanse.Clip(norm=100.0)])
        given = Given({client: (rows, None) for client, rows in job.data().items()})
        strategy = hanse.fedavg(sampler=FixedSize(job.cohort))
        run = hanse.Run(task, given, strategy, local, steps, rounds=10**6, engine=engine)
        self.run, self.perform = run, perform
        self.inside = ExitStack()
        fingerprint = self.inside.enter_context(task.exactly(1))
        self.pool = open_pool(run, run.spec, workers, None, fingerprint)
        self.program = StrategyProgram(run.strategy, run.spec.layout, local, steps, run.rounds)
        self.state = self.program.initial(run.described[1])
        self.training_s, self.rounds = 0.0, 0
        if workers == 1:
            station = self.pool.station
            for trainer in (station.kernel, station.trainer if engine == "batched" else None):
                if trainer is not None:
                    trainer.train = self.timed(trainer.train)

    def timed(self, train: Any) -> Any:
        def within(*arguments: Any) -> Any:
            began = time.process_time()
            try:
                return train(*arguments)
            finally:
                self.training_s += time.process_time() - began

        return within

    def told(self) -> dict[str, float]:
        """Return the processor seconds of training in a round, since the last asking."""
        rounds, self.rounds = self.rounds, 0
        seconds, self.training_s = self.training_s, 0.0
        return {"training": seconds / rounds} if seconds else {}

    def round(self, number: int) -> None:
        ask = self.program.ask(self.state)
        assert ask.round == number
        done = self.perform(ask, self.run.spec, self.run.faults, self.pool, {})
        self.state = self.program.absorb(self.state, done.total)
        self.rounds += 1

    def close(self) -> None:
        self.pool.close()
        self.inside.close()


def side_of(name: str, job: Job) -> Naive | Bare | Ours:
    """Return the side called ``naive``, or ``bare`` or an engine with so many workers: ``exact-2``.

    What follows a slash (``batched/numpy``) is for whoever starts the runner.
    """
    engine, _, workers = name.partition("/")[0].partition("-")
    if engine == "naive":
        return Naive(job)
    made = Bare if engine == "bare" else partial(Ours, engine=engine)
    return made(job, workers=int(workers or 1))


def main() -> None:
    """Serve until standard input ends."""
    torch.set_num_threads(1)
    side = side_of(sys.argv[2], JOBS[sys.argv[1]])
    for number in rounds(side.told):
        side.round(number)
    side.close()


if __name__ == "__main__":
    main()
