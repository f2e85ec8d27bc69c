"""The one place that catches what the user's code raises, and says whose code it was, and where."""

import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from hanse.errors import HanseError, TaskError

OWN = Path(__file__).parent.parent


@contextmanager
def userland(*, site: str = "", round: int = 0, phase: str) -> Generator[None]:
    """Turn any exception of the user's code into TaskError(site, round, phase)."""
    where = f"{phase}{f' at {site}' if site else ''}{f', round {round}' if round else ''}"
    try:
        yield
    except TaskError as error:
        if error.site or not site:
            raise
        raise TaskError(
            f"{where}: {error}", hint=error.hint, site=site, round=round, phase=phase
        ) from error
    except HanseError:
        raise
    except Exception as error:
        raise TaskError(
            f"{where}: {type(error).__name__}: {_first_line(error)}",
            hint=f"look at {_place(error)}; --debug shows the whole traceback",
            site=site,
            round=round,
            phase=phase,
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


def _place(error: Exception) -> str:
    """Return file and line of the last frame that is neither ours nor a library's."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not _is_ours_or_a_library(f.filename)]
    chosen = (theirs or list(frames))[-1]
    return f"{chosen.filename}:{chosen.lineno}"


def _is_ours_or_a_library(file: str) -> bool:
    return OWN in Path(file).parents or "site-packages" in file
