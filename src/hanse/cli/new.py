"""``hanse new``: a folder with the two files of a run, which works at once."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from hanse.cli.screen import Debug, out
from hanse.errors import ConfigError

NAMES = ("app.py", "run.toml")
Template = Literal["tabular", "image", "sequence"]


def new_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    template: Annotated[
        Template, typer.Option("--template", "-t", help="What the data are like.")
    ] = "tabular",
    debug: Debug = False,
) -> None:
    """Make DIR with app.py and run.toml: a model, generated data, and a run that works at once."""
    scaffold(folder, template)
    shown = folder / "run.toml"
    out().print(
        Text(
            f"{folder}: app.py (model and data) and run.toml (what to train, where, and what may "
            f"leave a site).\nThe data are generated in app.py: put yours there.\n\n"
            f"  hanse explain {shown}\n  hanse run {shown}"
        ),
        soft_wrap=True,
    )


def scaffold(folder: Path, template: str) -> None:
    """Write the files of ``template`` to ``folder``; ConfigError if one of them is there."""
    for name in NAMES:
        if (folder / name).exists():
            raise ConfigError(f"{folder / name} is there already", hint="name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            source = files("hanse.cli") / "templates" / template / f"{name}.txt"
            (folder / name).write_text(source.read_text("utf-8"), "utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"{folder} cannot be made: {reason}", hint="name another") from error
