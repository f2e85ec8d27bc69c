"""The PyTorch adapter: a task is a model factory, a loss, and metrics."""

# torch's annotations are incomplete; what leaves this module is annotated.
# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, ClassVar

from hanse.train import exact

exact.settle()

import numpy as np  # noqa: E402
import torch  # noqa: E402 -- MKL reads its settings at its first product
from numpy.typing import NDArray  # noqa: E402
from torch import nn  # noqa: E402

from hanse.core import seeds  # noqa: E402
from hanse.core.layout import Layout, Vector  # noqa: E402
from hanse.core.metrics import Metric  # noqa: E402
from hanse.core.step import Scalar  # noqa: E402
from hanse.core.work import Train  # noqa: E402
from hanse.errors import ConfigError, TaskError  # noqa: E402
from hanse.train.local import real_sum, training_scalars  # noqa: E402
from hanse.train.torch_identity import identity_of  # noqa: E402
from hanse.train.torch_local import TorchKernel  # noqa: E402
from hanse.train.torch_loop import Loop, UserLoop  # noqa: E402
from hanse.train.torch_model import (  # noqa: E402
    BufferPolicy,
    FlatModel,
    from_numpy,
    layout_of,
    tensors_of,
)
from hanse.train.torch_private import refuse  # noqa: E402
from hanse.train.torch_rows import confidences  # noqa: E402
from hanse.train.torch_steps import Optimizer  # noqa: E402
from hanse.train.userland import userland  # noqa: E402

__all__ = ["Loop", "TorchTask", "loop"]

REPORTS = "hanse_reports"


def loop(train: UserLoop | None = None, *, reports: Iterable[str] = ()) -> Any:
    """Mark a training loop of your own: ``train(model, dataset, ctx)``.

    It trains ``model`` in place and returns the number of examples, or ``(number, {"loss": …})``
    with means over them; names other than ``loss`` are declared in ``reports``. ``ctx`` is a
    :class:`Loop`: its ``correct()`` goes between ``backward()`` and ``step()``. Raises ConfigError
    for a report whose name is taken.
    """
    names = (reports,) if isinstance(reports, str) else tuple(reports)
    taken = {scalar.name for scalar in training_scalars()} | {"weight"}
    for name in names:
        if name in taken or names.count(name) > 1:
            raise ConfigError(
                f"a loop cannot report {name!r}: the name is taken",
                hint="the loss needs no declaration; give each other report a name of its own",
            )

    def mark(function: UserLoop) -> UserLoop:
        setattr(function, REPORTS, names)
        return function

    return mark if train is None else mark(train)


class TorchTask:
    """A PyTorch model with its loss and metrics.

    ``model``: a function that returns a new ``nn.Module`` (it is called under the run's seed).
    ``loss``: a module called as ``loss(outputs, targets)`` that returns the batch's mean.
    ``metrics``: from ``hanse.metrics``. ``optimizer``: a function of the list of parameters, used
    when a run says ``optimizer = "task"``. ``buffers``: what becomes of float buffers such as
    BatchNorm statistics: ``"aggregate"`` (pooled exactly over sites), ``"local"`` (kept at each
    site), ``"freeze"``; a model that has some needs it said. ``train``: a loop of your own, marked
    with :func:`loop`. ``device``: ``"cpu"`` (default), ``"cuda"``, or ``"auto"``.
    """

    hides_examples: ClassVar[bool] = True
    """Its kernels train as [local.privacy] says, where a run does."""

    def __init__(
        self,
        *,
        model: Callable[[], nn.Module],
        loss: nn.Module,
        metrics: Iterable[Metric] = (),
        optimizer: Optimizer | None = None,
        buffers: BufferPolicy | None = None,
        train: UserLoop | None = None,
        device: str = "cpu",
    ) -> None:
        """Keep the parts; nothing is built yet."""
        self.model, self.loss, self.metrics = model, loss, tuple(metrics)
        self.optimizer, self.device = optimizer, device
        self.buffers: BufferPolicy | None = buffers
        self.train, self.reports = train, self._declared(train)
        if buffers not in (None, "aggregate", "local", "freeze"):
            raise ConfigError(
                f"buffers={buffers!r} is no policy", hint='use "aggregate", "local" or "freeze"'
            )
        reduction = getattr(loss, "reduction", "mean")
        if reduction != "mean":
            raise ConfigError(
                f"{loss} has reduction={reduction!r}, and a task's loss is the mean over a batch",
                hint=f'use {type(loss).__name__}(reduction="mean")',
            )
        for metric in self.metrics:
            if not isinstance(metric, Metric):  # pyright: ignore[reportUnnecessaryIsInstance] -- users pass anything
                raise ConfigError(
                    f"{metric!r} is not a metric", hint="use hanse.metrics.auc, .accuracy, …"
                )
        names = [metric.name for metric in self.metrics]
        for name in names:
            if name in ("loss", "examples") or names.count(name) > 1:
                raise ConfigError(f"two metrics are called {name!r}", hint="leave one out")

    @staticmethod
    def _declared(train: UserLoop | None) -> tuple[str, ...]:
        if train is None:
            return ()
        reports = getattr(train, REPORTS, None)
        if reports is None:
            raise ConfigError(
                f"{getattr(train, '__name__', train)!r} is not marked as a loop",
                hint="put @hanse.train.torch.loop above it",
            )
        return reports

    def identity(self) -> str:
        """Return module, loss, metrics, policies, and the code of loop and optimiser, as text."""
        names = tuple(metric.name for metric in self.metrics)
        others = (names, self.buffers, self.reports, self.device, self.train, self.optimizer)
        return identity_of(self._module(0), self.loss, others)

    def _module(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]), userland(phase="building the model"):
            torch.manual_seed(seeds.key(seed, "model") >> 1)
            module = self.model()
        if not isinstance(module, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance] -- users return anything
            raise TaskError(
                f"model() returned {type(module).__name__}, not an nn.Module",
                hint="give TorchTask(model=...) a function that returns a new nn.Module",
            )
        half = {torch.float16, torch.bfloat16}
        return module.float() if any(p.dtype in half for p in module.parameters()) else module

    def describe(self, seed: int) -> tuple[Layout, Vector]:
        """Return the layout, and the flat vector of the model that ``seed`` initialises."""
        tensors = tensors_of(self._module(seed), self.buffers)
        layout = layout_of(tensors)
        values = {name: tensor.detach().cpu().numpy() for name, (tensor, _) in tensors.items()}
        return layout, layout.pack(values)

    def kernel(self) -> TorchKernel:
        """Return a new kernel on the task's device."""
        model = FlatModel(self._module(0), self.buffers, self._device())
        return TorchKernel(model, self.loss, self.metrics, self.optimizer, self.train, self.reports)

    def _device(self) -> torch.device:
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError("this machine has no CUDA device", hint='use device="cpu" or "auto"')
        return torch.device(name)

    def training_scalars(self) -> tuple[Scalar, ...]:
        """Return the integers that training reports."""
        more = (real_sum(n) for n in self.reports)
        return (*training_scalars(), *more)

    def check(self, work: Train, weight_by: str) -> None:
        """Raise ConfigError where this task cannot do what the run asks."""
        if work.local.optimizer == "task" and self.optimizer is None and self.train is None:
            raise ConfigError(
                'the run asks for optimizer = "task", and the task brings none',
                hint="give TorchTask(optimizer=lambda params: …), or name sgd, adam or adamw",
            )
        if work.local.privacy is not None:
            if self.train is not None:
                raise ConfigError(
                    "[local.privacy] clips and noises each step, and a loop of your own takes its "
                    "own",
                    hint="leave out TorchTask(train=...), or [local.privacy]",
                )
            refuse(self._module(0), self.loss, self.buffers)
        if weight_by == "steps" and self.train is not None:
            raise ConfigError(
                "the run weights clients by their steps, and a loop of your own counts none",
                hint='use Weight(by="examples"), or leave out TorchTask(train=...)',
            )

    def build(self, vector: Vector) -> nn.Module:
        """Return a module with the parameters of ``vector``, in eval mode, on the CPU."""
        module = self._module(0)
        tensors = tensors_of(module, self.buffers)
        layout = layout_of(tensors)
        with torch.no_grad():
            for name, value in layout.views(vector).items():
                tensors[name][0].copy_(from_numpy(value.copy()))
        return module.eval()

    def confidences(self, vector: Vector, dataset: object, site: str) -> NDArray[np.float64]:
        """Return how sure the model of ``vector`` is of each row's target, [n]: ln(p/(1 − p)) of
        the probability of the right class, where the loss is −ln p, else the loss's negative.

        ConfigError for a loss that is no mean over rows.
        """
        return confidences(self.kernel(), vector, dataset, site)

    @contextmanager
    def exactly(self, threads: int) -> Generator[str]:
        """Train exactly inside: ``threads`` threads; yield the process's numeric fingerprint."""
        exact.settle()
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        left, right = (from_numpy(matrix.copy()) for matrix in exact.probe())
        product = (left @ right).numpy().tobytes()
        try:
            with exact.kept_memory():
                yield exact.fingerprint(torch.__version__.encode() + product)
        finally:
            torch.set_num_threads(before)
