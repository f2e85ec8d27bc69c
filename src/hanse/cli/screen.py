"""Where the command line prints: results to standard output, errors and hints to standard error."""

import traceback
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hanse.errors import HanseError, HanseWarning

INTERNAL = 70
INTERRUPTED = 130

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
"""An option of every command; :func:`hanse.cli.app.main` reads it, for errors of all kinds."""


def out() -> Console:
    """Return the console of results; a pipe gets 100 columns."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=100)


def err() -> Console:
    """Return the console of errors and hints, which are not wrapped."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def plain_table(*columns: str) -> Table:
    """Return an empty table with little ink; without columns it has no head."""
    table = Table(box=box.SIMPLE_HEAD, show_header=bool(columns), pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


@contextmanager
def warning() -> Generator[None]:
    """Print what Hanse warns of inside as one line each, without a place in the code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", HanseWarning)
        as_python_does = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if issubclass(category, HanseWarning):
                err().print(Text.assemble(("Warning:", "bold yellow"), f" {message}"))
            else:
                as_python_does(message, category, *where)

        warnings.showwarning = show
        yield


def fail(code: str, message: str, hint: str) -> None:
    """Print one error and what to do about it."""
    console = err()
    console.print(Text.assemble(("Error:", "bold red"), f" [{code}] {message}"))
    if hint:
        console.print(Text.assemble(("Hint:", "bold"), f" {hint}"))


def fail_with(error: HanseError, *, debug: bool) -> int:
    """Print a deliberate error; return its exit status."""
    if debug:
        traceback.print_exception(error)
    fail(error.code, str(error), error.hint)
    return error.exit_status


def fail_inside(error: Exception, *, debug: bool) -> int:
    """Print an error that nobody foresaw; return its exit status."""
    if debug:
        traceback.print_exception(error)
    first = (str(error).strip().splitlines() or ["no message"])[0]
    what = f"{type(error).__name__}: {first}: this is a bug in Hanse"
    fail("internal", what, "--debug shows where")
    return INTERNAL
