"""What a person asks of an installation: one row for each thing that was looked at."""

import shutil
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hanse.errors import HanseError
from hanse.net.authority import certificate_expiry

LITTLE = 512 * 2**20
"""Free bytes below which a disk is nearly full."""
PACKAGES = ("hanse", "numpy", "torch", "cryptography", "sqlalchemy", "starlette", "urllib3")


@dataclass(frozen=True, slots=True)
class Check:
    """One row: what was looked at, whether it is well, what is so, what to do."""

    name: str
    ok: bool
    said: str
    fix: str = ""


def attempt(name: str, act: "Callable[[], str | Check]") -> Check:
    """Return the row of what ``act`` says, or of the error that it meets."""
    try:
        found = act()
    except HanseError as error:
        return Check(name, False, str(error), error.hint)
    except OSError as error:
        said = (error.strerror or str(error)).lower()
        said = f"{error.filename}: {said}" if error.filename else said
        return Check(name, False, said, "see to the place, and who may use it")
    return found if isinstance(found, Check) else Check(name, True, found)


def check_versions() -> Check:
    """Return the row of what is installed."""
    found = [f"Python {sys.version.split()[0]}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return Check("versions", True, ", ".join(found))


def check_private(folder: Path, *names: str) -> Check:
    """Return the row of whether a folder, and files in it, are their owner's alone."""
    open_to_others = [
        path.name
        for path in (folder, *(folder / name for name in names))
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    if not open_to_others:
        return Check("rights", True, f"{folder} is its owner's alone")
    said = f"{', '.join(open_to_others)} in {folder} can be read by others"
    return Check("rights", False, said, f"chmod -R go= {folder}, and ask who has read it")


def check_room(folder: Path, needed: int = LITTLE) -> Check:
    """Return the row of the disk under a folder."""
    free = shutil.disk_usage(folder).free
    said = f"{free / 2**20:,.0f} MiB free under {folder}"
    return Check("disk", free >= needed, said, "" if free >= needed else "make room")


def check_certificate(name: str, path: Path, fix: str) -> Check:
    """Return the row of a certificate and how long it is good for."""
    left = certificate_expiry(path.read_text()) - datetime.now(UTC)
    hours = left.total_seconds() / 3600
    if hours <= 0:
        return Check(name, False, f"{path.name} ended {-hours:,.0f} h ago", fix)
    said = f"{hours / 24:,.0f} days" if hours > 72 else f"{hours:,.0f} h"
    return Check(name, True, f"good for {said}")
