"""Models of every kind of layer that example-level privacy has to tell examples apart in."""

import torch
from torch import Tensor, nn


class Recurrent(nn.Module):
    """The last state of an LSTM or a GRU over embedded words."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, **more) -> None:
        super().__init__()
        self.table, self.inner = nn.Embedding(11, 6), kind(6, 5, batch_first=True, **more)
        self.out = nn.Linear(10 if more.get("bidirectional") else 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(self.table(x))[0][:, -1])


class Ahead(nn.Module):
    """An LSTM whose first state follows from the data, time first, its last cell going on."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first = nn.Embedding(11, 6), nn.Linear(6, 5)
        self.inner, self.out = nn.LSTM(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.table(x)
        state = self.first(x[:, 0]).tanh().unsqueeze(0)
        _, (_, cell) = self.inner(x.transpose(0, 1), (state, 2 * state))
        return self.out(cell[0])


class Tied(nn.Module):
    """Words in and out by one table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)
        self.out.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.table(x)).mean(1))


class Twice(nn.Module):
    """One layer, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(7, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


class Unused(nn.Module):
    """A layer that nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.idle = nn.Linear(7, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Behind(nn.Module):
    """A layer whose weight is used without calling it, and one that is called for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(7, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.inner(x)
        return self.out(torch.tanh(x @ self.inner.weight.T))


class Across(nn.Module):
    """Time first: for as many steps as rows, the layer's first dimension is not the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.inner(x.transpose(0, 1))).transpose(0, 1)[:, -1])


class Scaled(nn.Module):
    """A parameter of the module's own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.scale = nn.Linear(7, 3), nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.scale


class Attentive(nn.Module):
    """Attention within a row."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm, self.out = nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(x + self.inner(x, x, x, need_weights=False)[0]).mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(7, 9), nn.ReLU(inplace=True), nn.Linear(9, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2),
        nn.GroupNorm(2, 4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, (2, 3), groups=2, padding=(0, 2), dilation=(1, 2), bias=False),
        nn.InstanceNorm2d(6, affine=True),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


def last() -> nn.Module:
    """Images whose channels lie side by side in memory."""
    return nn.Sequential(
        nn.Conv2d(5, 4, (2, 3), padding=(1, 0), stride=(2, 1), dilation=(1, 2)),
        nn.ReLU(),
        nn.Conv2d(4, 2, 2),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


def same() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 4, padding="same", dilation=(1, 2)),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding="valid", groups=4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def sound() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 6, 3, padding=2, stride=2, dilation=2, groups=2),
        nn.InstanceNorm1d(6, affine=True),
        nn.GELU(),
        nn.AdaptiveAvgPool1d(2),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


def sequence() -> nn.Module:
    """Linear layers and norms at several places of a row."""
    return nn.Sequential(
        nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 5), nn.RMSNorm((3, 5)),
        nn.Flatten(), nn.Linear(15, 3),
    )  # fmt: skip


def words() -> nn.Module:
    return nn.Sequential(nn.Embedding(11, 6, padding_idx=0), nn.Flatten(), nn.Linear(30, 3))


def frozen() -> nn.Module:
    module = mlp()
    module[0].weight.requires_grad_(False)
    module[2].bias.requires_grad_(False)
    return module


def _of(shape: tuple[int, ...]):
    return lambda n: torch.randn(n, *shape, dtype=torch.float64)


def _last(n: int) -> Tensor:
    images = torch.randn(n, 5, 6, 8, dtype=torch.float64)
    return images.to(memory_format=torch.channels_last)


def _text(n: int) -> Tensor:
    return torch.randint(0, 11, (n, 5))


BY_HOOKS = {
    "mlp": (mlp, _of((7,))),
    "cnn": (cnn, _of((2, 9, 8))),
    "channels last": (last, _last),
    "padded alike": (same, _of((2, 7, 8))),
    "conv1d": (sound, _of((4, 9))),
    "at several places": (sequence, _of((3, 4))),
    "embedding": (words, _text),
    "lstm": (Recurrent, _text),
    "lstm of two layers": (lambda: Recurrent(num_layers=2, bidirectional=True), _text),
    "lstm without bias": (lambda: Recurrent(bias=False), _text),
    "lstm, time first": (Ahead, _text),
    "unused": (Unused, _of((7,))),
    "partly frozen": (frozen, _of((7,))),
}
OTHERWISE = {
    "tied": (Tied, _text),
    "twice": (Twice, _of((7,))),
    "behind the layer": (Behind, _of((7,))),
    "across": (Across, _of((6, 4))),
    "a parameter": (Scaled, _of((7,))),
    "attention": (Attentive, _of((3, 4))),
}
RECURRENT = {"gru": (lambda: Recurrent(nn.GRU), _text)}
MODELS = BY_HOOKS | OTHERWISE | RECURRENT


def made(name: str, n: int, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """A model in float64, and rows of inputs and targets for it."""
    torch.manual_seed(seed)
    make, rows = MODELS[name]
    module, inputs = make(), rows(n)
    module = module.double()
    outputs = module(inputs)
    return module, inputs, torch.randint(0, outputs.shape[1], (n,))
