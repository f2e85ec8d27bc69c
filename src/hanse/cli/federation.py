"""What a researcher types: log in, submit, follow, ask why, stop, download."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from hanse.cli.explain import Assignments, RunFilePath
from hanse.cli.places import TokenFile, home, token
from hanse.cli.screen import Debug, err, out, plain_table
from hanse.errors import ConfigError
from hanse.net.account import Account, login, news, submit


def _checked(run: str | None) -> str | None:
    """Return the id of a run; ConfigError for what is none, which would be part of a path."""
    if run is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}", run):
        raise ConfigError(f"{run!r} is no run", hint="hanse status lists the runs")
    return run


RunId = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The run's id, as submit printed it.", callback=_checked),
]
LOGIN = "login.json"
BACK_S = 600.0
"""How long a coordinator that is being restarted is waited for."""


def account() -> Account:
    """Return who is logged in."""
    return Account.load(home(None, LOGIN))


def login_command(
    url: Annotated[str, typer.Argument(help="The coordinator: https://host:8443")],
    token_file: TokenFile = None,
    debug: Debug = False,
) -> None:
    """Log in at a coordinator with the token of an invitation."""
    found = login(url, token(token_file))
    found.save(home(None, LOGIN))
    out().print(f"Logged in as {found.name} at {found.url}.", soft_wrap=True)


def submit_command(
    run_file: RunFilePath,
    sites: Annotated[str | None, typer.Option("--sites", help="The sites, with commas.")] = None,
    assignments: Assignments = None,
    follow: Annotated[bool, typer.Option("--follow", help="Watch it to its end.")] = False,
    debug: Debug = False,
) -> None:
    """Submit RUN.toml to the coordinator, for the sites that it or --sites names."""
    from hanse.config.parse import parse

    chosen = [*(assignments or ())]
    if sites is not None:
        names = [site.strip() for site in sites.split(",") if site.strip()]
        if not names:
            raise ConfigError("--sites names none", hint="leave it out for the run file's sites")
        chosen.append(f"sites={json.dumps(names)}")
    file = parse(run_file, chosen)
    run = file.load()
    if not run.app:
        raise ConfigError(
            f"{file.folder} is not an app's own folder", hint="put app.py and the run file apart"
        )
    line = account().dial()
    id = submit(line, run)
    print(id)
    if follow:
        _follow(id)


def status_command(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="One run, in full.", callback=_checked)
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Watch until it ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Show how runs stand."""
    line = account().dial()
    listed: Any = line.request("GET", "/v1/runs").json()
    rows: list[Any] = listed["runs"]
    if listed["restored"] is not None and not as_json:
        at = listed["restored"]["at"]
        err().print(f"The coordinator was restored from a backup of {at}: what came after is lost.")
    if follow or run:
        id = run or next((row["run"] for row in reversed(rows)), None)
        if id is None:
            raise ConfigError("there are no runs", hint="hanse submit run.toml")
        if follow:
            _follow(id)
            return
        told: Any = line.request("GET", f"/v1/runs/{id}").json()
        _show(told, as_json=as_json)
        return
    if as_json:
        print(json.dumps(rows))
        return
    if not rows:
        out().print("There are no runs yet: hanse submit run.toml")
        return
    table = plain_table("run", "by", "stage", "round", "sites")
    for row in rows:
        stage = row["outcome"] or row["stage"]
        rounds = f"{row['round']}/{row['rounds']}"
        table.add_row(row["run"], row["by"], stage, rounds, ", ".join(row["sites"]))
    out().print(table)


def _follow(id: str) -> None:
    line, console, seen = account().dial(), out(), ""
    for told in news(line, id, back_s=BACK_S):
        stage = told["outcome"] or told["stage"]
        said = f"{id}: {stage}, round {told['round']}/{told['rounds']}"
        reasons: list[str] = told["why"] if stage in ("preparing", "failed", "stopped") else []
        said += "".join(f"\n  {reason}" for reason in reasons)
        if said != seen:
            console.print(Text(said), soft_wrap=True)
            seen = said


def _show(told: Any, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(told))
        return
    console = out()
    stage = told["outcome"] or told["stage"]
    console.print(f"{told['run']}: {stage}, round {told['round']}/{told['rounds']}")
    table = plain_table("site", "ready", "heard of", "fingerprint")
    for site, member in told["members"].items():
        away = "never" if member["away_s"] is None else f"{member['away_s']:.0f} s ago"
        table.add_row(site, "yes" if member["ready"] else "no", away, member["fingerprint"])
    console.print(table)
    for reason in told["why"]:
        console.print(Text(reason), soft_wrap=True)


def why_command(run: RunId, debug: Debug = False) -> None:
    """Say in plain words what RUN waits for, or died of."""
    told: Any = account().dial().request("GET", f"/v1/runs/{run}").json()
    for reason in told["why"]:
        out().print(Text(reason), soft_wrap=True)


def logs_command(run: RunId, debug: Debug = False) -> None:
    """Print what happened to RUN, as the journal has it: one JSON object a line."""
    told: Any = account().dial().request("GET", f"/v1/runs/{run}/events").json()
    for event in told["events"]:
        print(json.dumps(event))


def stop_command(run: RunId, debug: Debug = False) -> None:
    """End RUN; the model of its last whole round stays."""
    told: Any = account().dial().request("POST", f"/v1/runs/{run}/stop").json()
    out().print(f"{run}: {told['outcome']}")


def download_command(
    run: RunId,
    folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder: runs/RUN by default.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Fetch RUN's model, history, events and report."""
    from hanse.net.home import bring_home

    target = folder or Path("runs") / run
    result = bring_home(account().dial(), run, target)
    if result["outcome"] is None:
        rounds = f"{result['rounds_done']} of {result['rounds']} rounds"
        said = f"{run} has not ended: this is its model after {rounds}"
        err().print(said, soft_wrap=True)
    out().print(
        f"Model:  {target / 'model.safetensors'} (digest {str(result['model_digest'])[:12]}…)\n"
        f"Report: {target / 'report.html'}",
        soft_wrap=True,
    )
