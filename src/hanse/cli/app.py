"""The door of the command line: its commands, and what becomes of errors."""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from hanse.cli.explain import explain_command
from hanse.cli.model import export_command, predict_command
from hanse.cli.new import new_command
from hanse.cli.report import compare_command, report_command
from hanse.cli.run import run_command
from hanse.cli.screen import INTERRUPTED, err, fail, fail_inside, fail_with
from hanse.errors import ConfigError, HanseError

app = typer.Typer(
    name="hanse",
    help="Federated learning across organisations that may not pool their data.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("run")(run_command)
app.command("explain")(explain_command)
app.command("new")(new_command)
app.command("compare")(compare_command)
app.command("predict")(predict_command)
app.command("export")(export_command)
app.command("report")(report_command)


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
    try:
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
    except Exception as error:
        return fail_inside(error, debug=debug)
    return status if isinstance(status, int) else 0


def _without_noise(message: str) -> str:
    return message.replace("Value error, ", "").rstrip(".")
