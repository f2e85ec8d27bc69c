"""Whether a coordinator can work here: disk, clock, certificates, and whether it answers."""

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

from hanse.coordinator.history import History
from hanse.coordinator.home import Home
from hanse.errors import ConfigError, HanseError
from hanse.net.account import Account
from hanse.net.authority import CERTIFICATE_FILE, ISSUER_FILE
from hanse.net.checks import Check, attempt, check_certificate, check_room
from hanse.net.keys import read_private

ADDRESS = "address.json"
"""Where a coordinator that has started says on which port it listens."""
TOLERATED_S = 300.0
ROTATE = "hanse coordinator rotate issuer"


def doctor(home: Home) -> list[Check]:
    """Return a row for each thing that must be so; nothing is changed."""
    settings = home.settings()
    where = settings.database or home.folder / "journal.db"
    kind = "PostgreSQL" if settings.database else f"SQLite {sqlite3.sqlite_version}"
    root = home.folder / CERTIFICATE_FILE
    server = home.folder / "server.pem"
    rows = [
        Check("coordinator", True, f"{settings.name}, for {', '.join(settings.hosts)}"),
        Check("database", True, kind),
        check_room(home.folder),
        attempt("clock", lambda: _clock(where)),
        attempt("root", lambda: check_certificate("root", root, "let all sites join anew")),
        attempt("issuer", lambda: check_certificate("issuer", home.folder / ISSUER_FILE, ROTATE)),
    ]
    if server.exists():
        again = "start the coordinator: it makes another one"
        rows.append(attempt("server", lambda: check_certificate("server", server, again)))
    rows.append(attempt("answers", lambda: _answers(home)))
    return rows


def _clock(where: str | Path) -> Check:
    """Compare the clock with the newest event: it must not be before it."""
    with History.of(where) as history:
        last = history.newest()
    behind = 0.0 if last is None else last.at_wall / 1000 - time.time()
    if behind > TOLERATED_S:
        said = f"the clock is {behind:,.0f} s before the journal's last event"
        return Check("clock", False, said, "set the clock; certificates go by it")
    return Check("clock", True, time.strftime("%Y-%m-%d %H:%M:%S %Z"))


def _answers(home: Home) -> Check:
    try:
        told: Any = local_account(home.folder).dial().request("GET", "/v1/about").json()
    except HanseError as error:
        return Check("answers", False, str(error), error.hint or "hanse coordinator start")
    return Check("answers", True, f"{told['name']}, protocol {told['protocol']}")


def local_account(folder: Path) -> Account:
    """Return the operator's account of the coordinator in ``folder``, on this machine."""
    if not (folder / "operator.json").exists():
        raise ConfigError(
            f"there is no coordinator in {folder}",
            hint="make one: hanse coordinator init --name NAME",
        )
    token = str(json.loads(read_private(folder / "operator.json"))["token"])
    try:
        port = int(json.loads((folder / ADDRESS).read_text())["port"])
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            "the coordinator has not been started", hint="hanse coordinator start"
        ) from error
    settings = json.loads((folder / "coordinator.json").read_text())
    hosts: list[str] = settings["hosts"]
    host = next((h for h in ("localhost", "127.0.0.1") if h in hosts), hosts[0])
    authority = (folder / "authority.pem").read_text()
    return Account("operator", f"https://{host}:{port}", authority, token)
