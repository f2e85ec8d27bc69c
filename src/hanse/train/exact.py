"""The rules by which a site and a simulator get the same bits from the same training.

1. One thread per client, always: a matrix product on two threads adds in another order. (The number
   is part of the run's spec: ``[local] threads``.)
2. Every tensor starts on 64 bytes in the flat vector (:class:`hanse.core.layout.Layout`).
3. A batch is always a fresh tensor, never a slice of somebody's array.
4. Kernel, batch order and optimiser arithmetic are part of the spec; the memory format of images
   follows from the model by a rule, and is measured nowhere.
5. Randomness by name: (seed, round, client, epoch).
6. ``MKL_CBWR`` is set before the first matrix product of the process, so that MKL's results do not
   depend on the alignment of what user code slices: to ``AVX2,STRICT``, and to ``AVX512`` on
   Intel's processors that have it, whose products did not depend on it either wherever the suite
   ran (a test looks), and are up to three times as fast so. Own settings of the variable are
   respected.

What is promised holds for one processor family and one set of library versions; a *fingerprint*
tells two machines apart before they train.
"""

import ctypes
import hashlib
import os
import platform
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

VARIABLE = "MKL_CBWR"
WIDE = {"avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl"}


def settle() -> None:
    """Ask MKL for results that do not depend on alignment; call it before the first product."""
    os.environ.setdefault(VARIABLE, setting_for(_processor()))


def setting_for(processor: str) -> str:
    """Return the setting for a processor, as ``/proc/cpuinfo`` describes it."""
    words = set(processor.split())
    return "AVX512" if "GenuineIntel" in words and words >= WIDE else "AVX2,STRICT"


@cache
def _processor() -> str:
    try:
        return Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return ""


# mallopt(3): parameter → (inside, glibc's default outside), in bytes
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEEPING = {
    M_MMAP_THRESHOLD: (2**30, 2**17),
    M_TRIM_THRESHOLD: (2**31 - 1, 2**17),
    M_TOP_PAD: (2**26, 0),
}
_keepers, _door = [0], threading.Lock()


@contextmanager
def kept_memory() -> Generator[None]:
    """Let the C library keep freed memory inside, for the next step, and give it back afterwards.

    It would return each large tensor to the system, and have its pages cleared anew at every step:
    a tenth of a convolutional network's time, half of a tiny model's. Changes no bit. Nothing where
    the C library is not glibc.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        yield
        return
    _set(libc, +1)
    try:
        yield
    finally:
        _set(libc, -1)


def _set(libc: ctypes.CDLL, more: int) -> None:
    """Count who is inside: the first sets, the last resets."""
    with _door:
        before, _keepers[0] = _keepers[0], _keepers[0] + more
        if 0 in (before, _keepers[0]):
            for parameter, values in KEEPING.items():
                libc.mallopt(parameter, values[more < 0])
            if more < 0:
                libc.malloc_trim(0)


def fingerprint(product: bytes) -> str:
    """Return a hash that machines share if their bits are promised to agree.

    ``product`` is what a framework computes of :func:`probe`.
    """
    parts = [platform.machine(), os.environ.get(VARIABLE, ""), version("numpy")]
    return hashlib.sha256("\0".join(parts).encode() + product).hexdigest()[:16]


def probe() -> tuple[np.ndarray, np.ndarray]:
    """Return two fixed float32 matrices, (33, 301) and (301, 65), whose product is sensitive."""
    counter = np.arange(33 * 301 + 301 * 65, dtype=np.float64)
    values = (np.modf(np.sqrt(counter + 2) * 97.0)[0] - 0.5).astype(np.float32)
    return values[: 33 * 301].reshape(33, 301), values[33 * 301 :].reshape(301, 65)
