"""The networks of the jobs, in torch."""

import torch
from torch import Tensor, nn


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 12 * 12, 128), nn.ReLU(), nn.Linear(128, 62),
    )  # fmt: skip


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 8 * 8, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


class Block(nn.Module):
    """A basic block of a ResNet (He et al., 2016), with GroupNorm."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.GroupNorm(2, width), nn.GroupNorm(2, width)])
        is_same = stride == 1 and before == width
        self.short = nn.Identity() if is_same else nn.Conv2d(before, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(self.norms[1](self.second(y)) + self.short(x))


def resnet() -> nn.Module:
    widths, layers, before = (16, 32, 64, 128), [], 16
    for stage, width in enumerate(widths):
        for number in range(2):
            layers.append(Block(before, width, 2 if stage and not number else 1))
            before = width
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.GroupNorm(2, 16), nn.ReLU()]
    return nn.Sequential(*stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


class Words(nn.Module):
    """An LSTM of two layers that names the next of 500 words."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.lstm = nn.Embedding(500, 64), nn.LSTM(64, 100, 2, batch_first=True)
        self.out = nn.Linear(100, 500)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(self.table(x))[0][:, -1])


NETS = {
    "tiny": lambda: nn.Sequential(nn.Linear(784, 10)),
    "mlp": lambda: nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10)),
    "cnn": cnn,
    "lenet": lenet,
    "silo": resnet,
    "lstm": Words,
}
