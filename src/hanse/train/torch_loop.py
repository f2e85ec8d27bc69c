"""What a training loop of the user's own is given, and what it may return."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from hanse.core.metrics import fixed
from hanse.core.work import LocalTraining, Proximal
from hanse.errors import TaskError
from hanse.train.torch_steps import corrected


@dataclass
class Loop:
    """What a training loop of the user's own is given beside model and data set.

    ``local``: the run's [local] settings; ``round``, ``client``: whose turn it is; ``seed``: an
    integer of this turn; ``generator``: a torch generator seeded with it, for shuffling.
    """

    local: LocalTraining
    round: int
    client: str
    seed: int
    device: torch.device
    generator: torch.Generator
    correction: Proximal | None
    starts: list[Tensor]
    parameters: list[nn.Parameter]
    was_corrected: bool = False

    def correct(self) -> None:
        """Add the strategy's gradient correction: call it between backward() and step().

        Without a correction (FedAvg) it does nothing, so that a loop can always call it.
        """
        self.was_corrected = True
        if self.correction is None:
            return
        for p, start in zip(self.parameters, self.starts, strict=True):
            if p.grad is not None:
                (p.grad,) = corrected([p.grad], [p], [start], self.correction)


UserLoop = Callable[[nn.Module, Any, Loop], object]


def counts_of(returned: Any, declared: tuple[str, ...]) -> dict[str, int]:
    """Return the counts of what a loop returned; TaskError if it is not what was declared.

    A loop that returns its number of examples only has ``seen`` 0: its loss is not known.
    """
    examples, told = _pair(returned)
    if not isinstance(examples, Integral) or examples is True or int(examples) < 0:
        raise TaskError(
            f"the loop returned {examples!r} as its number of examples",
            hint="return the number of examples, or (number, {'loss': mean loss})",
        )
    wanted = {"loss", *declared} if told or declared else set[str]()
    for name in sorted(set(told) - wanted):
        raise TaskError(
            f"the loop reports {name!r}, which it did not declare",
            hint=f'declare it: @hanse.train.torch.loop(reports=("{name}",))',
        )
    for name in sorted(wanted - set(told)):
        raise TaskError(
            f"the loop does not report {name!r}",
            hint=f"return (number, {{'{name}': its mean over the examples, …}})",
        )
    n = int(examples)
    sums = {name: fixed(float(told[name]) * n) for name in wanted}
    return {"examples": n, "steps": 0, "seen": n if told else 0, "loss": 0, **sums}


def _pair(returned: Any) -> tuple[Any, Mapping[str, float]]:
    return returned if isinstance(returned, tuple) else (returned, {})  # pyright: ignore[reportUnknownVariableType] -- users return anything
