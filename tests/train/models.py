"""Small models of every kind that changes bits, data for them, and tasks made of both."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

import hanse
from hanse.train.torch import TorchTask

FEATURES = 27  # a row of 27 floats does not end on 16 bytes: the case that shows alignment


def logistic() -> nn.Module:
    return nn.Linear(FEATURES, 1)


def tabular(outputs: int = 1, dropout: float = 0.0) -> nn.Module:
    return nn.Sequential(
        nn.Linear(FEATURES, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, outputs)
    )


def curved() -> nn.Module:
    """Nothing that has its gradients written out."""
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.GELU(), nn.Linear(16, 1))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4, 3),
    )


def double(model: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: model().double()


def table(n: int, seed: int, *, classes: int = 2, dtype: type = np.float32):
    """Rows of 27 features whose label follows from them, and the labels."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, FEATURES))
    label = (x[:, :classes].argmax(1)) if classes > 2 else (x[:, 0] + x[:, 1] > 0)
    return x.astype(dtype), label.astype(np.int64)


def images(n: int, seed: int):
    """6×6 images of three classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    return (rng.normal(size=(n, 1, 6, 6)) + y[:, None, None, None]).astype(np.float32), y


def federation(make=table, *, clients: int = 5, smallest: int = 17, tests: int = 9, **more):
    """Client → (train, test), of unequal sizes."""
    return {
        f"site-{k}": (make(smallest + 4 * k, 100 + k, **more), make(tests, 200 + k, **more))
        for k in range(clients)
    }


def binary(model: Callable[[], nn.Module] = tabular, **more) -> TorchTask:
    metrics = [hanse.metrics.auc, hanse.metrics.accuracy]
    return TorchTask(**{"model": model, "loss": nn.BCEWithLogitsLoss(), "metrics": metrics} | more)


def classes(model: Callable[[], nn.Module], **more) -> TorchTask:
    metrics = [hanse.metrics.accuracy]
    return TorchTask(**{"model": model, "loss": nn.CrossEntropyLoss(), "metrics": metrics} | more)


def flat(parameters: dict[str, np.ndarray]) -> np.ndarray:
    """All parameters in one vector, without padding."""
    return np.concatenate([value.reshape(-1) for _, value in sorted(parameters.items())])


def state(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in module.named_parameters()}


def whole(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
