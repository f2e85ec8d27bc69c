"""The rules by which a site and a simulator get the same bits from the same training.

1. One thread per client, always: a matrix product on two threads adds in another order. (The number
   is part of the run's spec: ``[local] threads``.)
2. Every tensor starts on 64 bytes in the flat vector (:class:`hanse.core.layout.Layout`).
3. A batch is always a fresh tensor, never a slice of somebody's array.
4. Kernel, memory format, batch order and optimiser arithmetic are part of the spec.
5. Randomness by name: (seed, round, client, epoch).
6. ``MKL_CBWR`` is set before the first matrix product of the process, so that MKL's results do not
   depend on the alignment of what user code slices. Own settings of the variable are respected.

What is promised holds for one processor family and one set of library versions; a *fingerprint*
tells two machines apart before they train.
"""

import hashlib
import os
import platform
from importlib.metadata import version

import numpy as np

VARIABLE, VALUE = "MKL_CBWR", "AVX2,STRICT"


def settle() -> None:
    """Ask MKL for results that do not depend on alignment; call it before the first product."""
    os.environ.setdefault(VARIABLE, VALUE)


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
