"""Where the command line keeps things, unless told otherwise: ``~/.hanse``, or ``$HANSE_HOME``."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from hanse.errors import ConfigError

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="Folder to keep it in: ~/.hanse/… by default."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="Read the token there, do not ask for it."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Confirm what would be asked.")]


def home(given: Path | None, kind: str) -> Path:
    """Return the folder that was given, or the usual one of its kind."""
    if given is not None:
        return given.expanduser()
    base = os.environ.get("HANSE_HOME")
    return (Path(base) if base else Path.home() / ".hanse") / kind


def token(file: Path | None) -> str:
    """Return the token from a file, or ask for it: the command line is for everyone to see."""
    if file is not None:
        try:
            return file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} cannot be read", hint="name a file with a token") from error
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask for the token", hint="use --token-file FILE")
    return typer.prompt("Token", hide_input=True).strip()


def sources(given: list[str]) -> dict[str, str]:
    """Return name → path of ``name=path`` options; ConfigError for another form."""
    found = dict[str, str]()
    for pair in given:
        name, equals, path = pair.partition("=")
        if not equals or not name or not path:
            raise ConfigError(
                f"--source {pair} is not NAME=PATH", hint="write --source heart=/data/heart.csv"
            )
        found[name] = path
    return found
