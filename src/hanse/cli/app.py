"""The door of the command line: its commands, and what becomes of errors."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer

from hanse.cli.screen import INTERRUPTED, err, fail, fail_inside, fail_with, warning
from hanse.errors import ConfigError, HanseError

app = typer.Typer(
    name="hanse",
    help="Federated learning across organisations that may not pool their data.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
COMMANDS = {
    "run": "hanse.cli.run:run_command",
    "explain": "hanse.cli.explain:explain_command",
    "new": "hanse.cli.new:new_command",
    "compare": "hanse.cli.report:compare_command",
    "predict": "hanse.cli.model:predict_command",
    "export": "hanse.cli.model:export_command",
    "report": "hanse.cli.report:report_command",
    "replay": "hanse.cli.replay:replay_command",
    "privacy": "hanse.cli.privacy:app",
    "audit": "hanse.cli.audit:audit_command",
    "up": "hanse.cli.up:up_command",
    "login": "hanse.cli.federation:login_command",
    "submit": "hanse.cli.federation:submit_command",
    "status": "hanse.cli.federation:status_command",
    "why": "hanse.cli.federation:why_command",
    "logs": "hanse.cli.federation:logs_command",
    "stop": "hanse.cli.federation:stop_command",
    "download": "hanse.cli.federation:download_command",
    "doctor": "hanse.cli.upkeep:doctor_command",
    "fsck": "hanse.cli.upkeep:fsck_command",
    "backup": "hanse.cli.upkeep:backup_command",
    "restore": "hanse.cli.upkeep:restore_command",
    "coordinator": "hanse.cli.coordinator:app",
    "site": "hanse.cli.site:app",
}
"""Command → where it is. A site's agent imports its own and no other: it starts in a moment."""


EXTRA = {
    **dict.fromkeys(("login", "submit", "status", "why", "logs", "stop", "download"), "site"),
    **dict.fromkeys(("up", "doctor", "fsck", "backup", "restore"), "coordinator"),
}
"""Command → the extra that it needs, where that is not its own name."""
OF_EXTRAS = ("urllib3", "sqlalchemy", "alembic", "starlette", "uvicorn", "uvloop", "httptools")
"""Packages that come with the extras ``site`` and ``coordinator``."""


def load(*names: str) -> None:
    """Import these commands and add them to the door, once."""
    known = {c.name for c in app.registered_commands} | {g.name for g in app.registered_groups}
    for name in names:
        module, _, attribute = COMMANDS[name].partition(":")
        if name in known:
            continue
        try:
            found: Any = getattr(import_module(module), attribute)
        except ModuleNotFoundError:
            if len(names) > 1:
                continue  # a list of commands leaves out what is not installed
            raise
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context,
    wants_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.")
    ] = False,
) -> None:
    """Federated learning across organisations that may not pool their data."""
    if wants_version:
        print(f"hanse {version('hanse')}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
    else:
        return
    raise typer.Exit


def run() -> None:
    """Run the command line and exit: what the script ``hanse`` calls."""
    raise SystemExit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command; return the exit status. Every error becomes one message."""
    debug = "--debug" in arguments
    first = arguments[0] if arguments else ""
    try:
        load(*((first,) if first in COMMANDS else COMMANDS))
        with warning():
            status: object = app(args=list(arguments), prog_name="hanse", standalone_mode=False)
    except HanseError as error:
        return fail_with(error, debug=debug)
    except typer.TyperException as error:
        fail(
            ConfigError.code,
            _without_noise(error.format_message()),
            "hanse COMMAND --help lists the options",
        )
        return ConfigError.exit_status
    except (typer.Abort, KeyboardInterrupt):
        err().print("Interrupted.")
        return INTERRUPTED
    except ModuleNotFoundError as error:
        if error.name not in OF_EXTRAS:
            return fail_inside(error, debug=debug)
        what = f"hanse {first} needs {error.name}, which is not installed"
        fail(ConfigError.code, what, f"pip install 'hanse[{EXTRA.get(first, first)}]'")
        return ConfigError.exit_status
    except OSError as error:
        if error.filename is None or debug:
            return fail_inside(error, debug=debug)
        said = (error.strerror or str(error)).lower()
        fail(ConfigError.code, f"{error.filename}: {said}", "see to the place, and who may use it")
        return ConfigError.exit_status
    except Exception as error:
        return fail_inside(error, debug=debug)
    return status if isinstance(status, int) else 0


def _without_noise(message: str) -> str:
    return message.replace("Value error, ", "").rstrip(".")
