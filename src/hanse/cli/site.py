"""``hanse site``: join a federation, serve it by one's own rules, see what left the building."""

import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from hanse.cli.ledger import ledger
from hanse.cli.places import HomeOption, TokenFile, Yes, home, sources, token
from hanse.cli.screen import Debug, err, out, plain_table
from hanse.errors import ConfigError
from hanse.log import Event, Line, log
from hanse.site.home import SiteHome

app = typer.Typer(help="Take part as a site: the data stay here.")
roster = typer.Typer(help="Who the other sites are.")
app.add_typer(roster, name="roster")
app.command()(ledger)
SourceOption = Annotated[
    list[str] | None,
    typer.Option("--source", metavar="NAME=PATH", help="Where a data set is on this machine."),
]


@app.command()
def join(
    url: Annotated[str, typer.Argument(help="The coordinator: https://host:8443")],
    name: Annotated[str, typer.Option("--name", help="This site's name, as it was invited.")],
    token_file: TokenFile = None,
    yes: Yes = False,
    folder: HomeOption = None,
    debug: Debug = False,
) -> None:
    """Make keys here, enrol with a token, and write this site's policy."""
    from hanse.site.enrol import join as enrol
    from hanse.site.policy import Policy

    place = SiteHome(home(folder, "site"))
    words = enrol(place, url, name, token(token_file))
    console = out()
    console.print(Text.assemble(f"{name} has joined. Its six words: ", (words, "bold")))
    console.print(
        "Compare them by phone with the coordinator's operator (hanse coordinator sites).",
        soft_wrap=True,
    )
    policy = Policy(place.enrolled().coordinator)
    console.print(f"\nThis is what would be permitted, from {place.policy}:\n", soft_wrap=True)
    console.print(Text(policy.text()), soft_wrap=True)
    if not yes and not typer.confirm("Write this policy? (you can edit it any time)"):
        err().print("Without a policy every run is refused. hanse site policy writes it later.")
        return
    policy.write(place.policy)
    console.print(
        "Next: hanse site roster accept, then hanse site start --app DIR --source NAME=PATH"
    )


@app.command()
def policy(folder: HomeOption = None, debug: Debug = False) -> None:
    """Write the policy that join proposes, where there is none."""
    from hanse.site.policy import Policy

    place = SiteHome(home(folder, "site"))
    Policy(place.enrolled().coordinator).write(place.policy)
    out().print(f"Written: {place.policy}", soft_wrap=True)


@app.command()
def start(
    application: Annotated[Path, typer.Option("--app", metavar="DIR", help="The app's folder.")],
    source: SourceOption = None,
    folder: HomeOption = None,
    debug: Debug = False,
) -> None:
    """Serve runs until it is stopped; dials out only, and runs only the app in DIR."""
    from hanse.site.agent import Agent

    place = SiteHome(home(folder, "site"))
    console = out()

    in_words = console.is_terminal and sys.stderr.isatty()  # so that nothing is there twice

    def say(text: str, line: Line) -> None:
        if not in_words:
            log(line)
        console.print(Text(f"{time.strftime('%H:%M:%S')} {text}"), soft_wrap=True)

    agent = Agent(place, application, sources(source or []), say)

    def stop(number: int, frame: object) -> None:
        agent.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    log(Line(Event.STARTED, name=agent.name, pid=os.getpid()))
    agent.run()
    log(Line(Event.STOPPED, name=agent.name))


@app.command()
def status(
    lines: Annotated[int, typer.Option("--lines", min=1, help="Lines of the log to show.")] = 10,
    folder: HomeOption = None,
    debug: Debug = False,
) -> None:
    """Show whether the agent is on line, what it does, and the last lines of its log."""
    place = SiteHome(home(folder, "site"))
    enrolled, told = place.enrolled(), place.status()
    console = out()
    said = f"{enrolled.name} of {enrolled.federation}, {enrolled.url}"
    console.print(said, soft_wrap=True)
    if not told:
        console.print("The agent has not run yet: hanse site start --app DIR")
        return
    age = time.time() - told["at"]
    state = "on line" if told["online"] else "off line"
    state = state if age < 60 else f"not heard of for {age:.0f} s"
    if not _lives(told["pid"]):
        state = f"has ended {age:.0f} s ago or later"
    reason = f": {told['error']}" if told["error"] else ""
    console.print(f"agent (pid {told['pid']}): {state}{reason}", soft_wrap=True)
    for run, doing in told["runs"].items():
        console.print(f"  {doing or f'{run}: waits'}")
    log = place.folder / "log.jsonl"
    for line in log.read_text().splitlines()[-lines:] if log.exists() else ():
        console.print(Text(line), soft_wrap=True)


def _lives(pid: int) -> bool:
    """Whether there is a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@app.command()
def check(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.toml", help="The run file.")],
    source: SourceOption = None,
    folder: HomeOption = None,
    debug: Debug = False,
) -> None:
    """Try RUN.toml here before round 1: policy, app, ledger, data, one batch, disk, clock."""
    from hanse.site.dry_run import dry_run

    place = SiteHome(home(folder, "site"))
    rows = dry_run(place, run_file, sources(source or []))
    table = plain_table("check", "", "what was found", "what to do")
    for row in rows:
        cells = (row.name, "ok" if row.ok else "FAILS", row.said, "" if row.ok else row.fix)
        table.add_row(*map(Text, cells))
    out().print(table)
    if not all(row.ok for row in rows):
        raise typer.Exit(5)


@app.command()
def model(
    run: Annotated[str, typer.Argument(help="The run.")],
    target: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to copy it to.")
    ] = None,
    folder: HomeOption = None,
    debug: Debug = False,
) -> None:
    """Give the model that this site helped to train, as safetensors."""
    import shutil

    place = SiteHome(home(folder, "site"))
    path = place.folder / "runs" / run / "model.safetensors"
    if not path.exists():
        raise ConfigError(
            f"there is no model of {run} here", hint="it comes when the run has ended"
        )
    target = target or Path(f"{run}.safetensors")
    shutil.copyfile(path, target)
    out().print(f"{target}", soft_wrap=True)


@roster.command("accept")
def accept(yes: Yes = False, folder: HomeOption = None, debug: Debug = False) -> None:
    """Show who the sites are, each with six words, and accept them."""
    from hanse.site.enrol import dial
    from hanse.site.policy import accept_roster
    from hanse.site.roster import read_roster

    place = SiteHome(home(folder, "site"))
    enrolled = place.enrolled()
    if not place.policy.exists():
        raise ConfigError("this site has no policy yet", hint="hanse site policy writes one")
    told: Any = dial(place).request("GET", "/v1/roster").json()
    found = read_roster(told["roster"], enrolled.coordinator)
    table = plain_table("site", "six words")
    for name, words in found.rows:
        table.add_row(name, words)
    out().print(table)
    if not yes and not typer.confirm("Are these the sites, with the words that they told you?"):
        err().print("Nothing is changed.")
        raise typer.Exit(1)
    accept_roster(place.policy, found.digest)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    out().print(f"Accepted {found.digest[:16]}… at {at}.")
