"""Where a run ran, as far as its bits depend on it: no host name, no user name, no paths."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hanse.core.canonical import Json

PACKAGES = ("hanse", "numpy", "torch", "numba")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def environment() -> dict[str, Json]:
    """Return python, platform, processor, cores, versions, ``MKL_CBWR`` and threads."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "MKL_CBWR": os.environ.get("MKL_CBWR"),
        "threads": _threads(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    """Return the processor's model; Linux tells it in a file only."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def _threads() -> dict[str, Json]:
    """Return what limits threads; torch is asked only where it is loaded already."""
    found: dict[str, Json] = {name: os.environ[name] for name in THREADS if name in os.environ}
    torch = sys.modules.get("torch")
    return found if torch is None else {**found, "torch": int(torch.get_num_threads())}
