"""``hanse coordinator``: make one, start it, invite, and see who is there."""

import json
import os
import shlex
import socket
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from hanse.cli.places import HomeOption, home
from hanse.cli.screen import Debug, out, plain_table
from hanse.errors import ConfigError

app = typer.Typer(help="Run a coordinator: it hands out work, adds up, and sees no data.")


@app.command()
def init(
    name: Annotated[str, typer.Option("--name", help="Name of the federation.")],
    hosts: Annotated[
        list[str] | None,
        typer.Option("--host", help="A name or address that sites will use; may be repeated."),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on.")
    ] = 8443,
    listen: Annotated[str, typer.Option("--listen", help="Address to listen on.")] = "0.0.0.0",
    database: Annotated[
        str, typer.Option("--database", help="postgresql://… in the place of SQLite.")
    ] = "",
    parallel: Annotated[int, typer.Option("--parallel", min=1, help="Runs under way at once.")] = 4,
    folder: HomeOption = None,
    debug: Debug = False,
) -> None:
    """Make keys, a certificate authority of its own, and an empty journal."""
    from hanse.coordinator.home import Home, Settings

    known = tuple(hosts or (socket.gethostname(), "localhost", "127.0.0.1"))
    place = Home(home(folder, "coordinator"))
    fingerprint = place.create(
        Settings(name, known, listen, port, database=database, parallel=parallel)
    )
    given = "" if folder is None else f" --home {shlex.quote(str(folder))}"
    out().print(
        Text(
            f"Coordinator {name} in {place.folder}, for {', '.join(known)}.\n"
            f"Authority {fingerprint}\n\n  hanse coordinator start{given}\n"
            f"  hanse coordinator invite SITE{given}"
        ),
        soft_wrap=True,
    )


@app.command()
def start(
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Another port than at init.")
    ] = None,
    folder: HomeOption = None,
    debug: Debug = False,
) -> None:
    """Serve until it is stopped (Ctrl-C, SIGTERM); runs go on at the next start."""
    from hanse.coordinator.doctor import ADDRESS
    from hanse.coordinator.home import Home
    from hanse.coordinator.service import serve
    from hanse.net.server import Server

    place = Home(home(folder, "coordinator"))
    settings = place.settings()

    def ready(server: Server) -> None:
        told = {"port": server.port, "pid": os.getpid()}
        (place.folder / ADDRESS).write_text(json.dumps(told))
        said = f"{settings.name} listens on https://{settings.hosts[0]}:{server.port}"
        out().print(said + (" (simulated)" if settings.simulated else ""), soft_wrap=True)

    serve(place, port=port, ready=ready)


@app.command()
def invite(
    site: Annotated[str | None, typer.Argument(metavar="[SITE]", help="Name of the site.")] = None,
    researcher: Annotated[str, typer.Option("--researcher", help="Invite a researcher.")] = "",
    viewer: Annotated[str, typer.Option("--viewer", help="Invite who may look.")] = "",
    operator: Annotated[str, typer.Option("--operator", help="Invite an operator.")] = "",
    folder: HomeOption = None,
    debug: Debug = False,
) -> None:
    """Print a token, good once and for an hour, for one name."""
    from hanse.coordinator.registry import NAME

    asked = {"site": site, "researcher": researcher, "viewer": viewer, "operator": operator}
    named = {role: name for role, name in asked.items() if name}
    if len(named) != 1:
        raise ConfigError(
            "nobody, or several, to invite", hint="name one: hanse coordinator invite cleveland"
        )
    ((role, name),) = named.items()
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name", hint="use lower-case letters, digits and hyphens, at most 63"
        )
    from hanse.coordinator.doctor import local_account

    account = local_account(home(folder, "coordinator"))
    told: Any = (
        account.dial().request("POST", "/v1/invitations", {"name": name, "role": role}).json()
    )
    print(told["token"])


@app.command()
def sites(folder: HomeOption = None, debug: Debug = False) -> None:
    """List the sites: six words to compare by phone, and when each was heard of."""
    from hanse.coordinator.doctor import local_account

    account = local_account(home(folder, "coordinator"))
    told: Any = account.dial().request("GET", "/v1/sites").json()
    table = plain_table("site", "six words", "heard of", "doing")
    for row in told["sites"]:
        away = "never" if row["away_s"] is None else f"{row['away_s']:.0f} s ago"
        state = "revoked" if row["revoked"] else away
        table.add_row(row["name"], row["words"], state, row["doing"])
    out().print(table)


@app.command()
def rotate(
    what: Annotated[str, typer.Argument(metavar="issuer|identity", help="Which key.")],
    root_key: Annotated[
        Path | None,
        typer.Option("--root-key", metavar="FILE", help="Where the root's key is, if not here."),
    ] = None,
    folder: HomeOption = None,
    debug: Debug = False,
) -> None:
    """Put a new key in the place of one; it counts from the coordinator's next start.

    ``issuer`` signs certificates; what the old one has signed stays good until it ends.
    ``identity`` signs answers; the old key names the new one, and sites follow by themselves.
    """
    from hanse.coordinator.home import IDENTITY, Home
    from hanse.net import succession
    from hanse.net.authority import Authority

    place = Home(home(folder, "coordinator"))
    place.settings()
    match what:
        case "issuer":
            Authority.rotate(place.folder, root_key)
            out().print("Another issuer signs from the next start on.")
        case "identity":
            new = succession.rotate(place.folder, place.folder / IDENTITY)
            out().print(f"The identity key is {new[:16]}… from the next start on.")
        case _:
            raise ConfigError(f"{what!r} is no key", hint="say issuer or identity")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="A site, or a person.")],
    folder: HomeOption = None,
    debug: Debug = False,
) -> None:
    """Let a site or a person in no more, from their next request on."""
    from hanse.coordinator.doctor import local_account

    account = local_account(home(folder, "coordinator"))
    account.dial().request("POST", f"/v1/members/{name}/revoke")
    out().print(f"{name} is revoked.")
