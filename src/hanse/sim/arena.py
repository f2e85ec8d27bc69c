"""The shared memory of one run: the global model, then one running sum per worker."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hanse.core.layout import Vector
from hanse.core.spec import RunSpec
from hanse.core.step import Integers
from hanse.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Arena:
    """The model and one int64 sum per worker, page-aligned in one file."""

    path: Path
    model: Vector
    sums: list[Integers]

    @staticmethod
    def size(spec: RunSpec, workers: int) -> int:
        """Return how many bytes an arena takes."""
        model = spec.layout.size * np.dtype(spec.layout.dtype).itemsize
        return _page(model) + workers * _page(spec.bound.coordinates * 8)

    @staticmethod
    def create(spec: RunSpec, workers: int) -> Path:
        """Make the file; in /dev/shm where there is room, else in the temporary folder."""
        need = Arena.size(spec, workers)
        for folder in ("/dev/shm", tempfile.gettempdir()):
            if os.path.isdir(folder) and _free(folder) > need:
                descriptor, name = tempfile.mkstemp(prefix="hanse-", dir=folder)
                os.ftruncate(descriptor, need)
                os.close(descriptor)
                return Path(name)
        raise ConfigError(
            f"no room for {need / 2**20:.0f} MiB of shared memory",
            hint="free space in /dev/shm or the temporary folder, or use fewer workers",
        )

    @staticmethod
    def open(path: Path, spec: RunSpec, workers: int) -> "Arena":
        """Map the file; every process that does sees the same memory."""
        whole = np.memmap(path, dtype=np.uint8, mode="r+")
        dtype, size = np.dtype(spec.layout.dtype), spec.layout.size
        model = whole[: size * dtype.itemsize].view(dtype)
        at, count = _page(size * dtype.itemsize), spec.bound.coordinates
        step = _page(count * 8)
        starts = range(at, at + workers * step, step) if step else [at] * workers
        sums = [whole[start : start + count * 8].view(np.int64) for start in starts]
        return Arena(path, np.asarray(model), [np.asarray(s) for s in sums])


def _page(size: int) -> int:
    return -(-size // 4096) * 4096


def _free(folder: str) -> int:
    stats = os.statvfs(folder)
    return stats.f_bavail * stats.f_frsize
