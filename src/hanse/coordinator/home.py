"""The coordinator's folder: settings, keys, journal, blobs, spool; for its owner alone.

The spool belongs in no backup: what is in it is to be destroyed.
"""

import json
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hanse.coordinator.access import token_digest
from hanse.coordinator.journal import Journal
from hanse.coordinator.registry import NAME
from hanse.errors import ConfigError
from hanse.net.authority import Authority
from hanse.net.keys import IdentityKey, write_private

SETTINGS, OPERATOR, IDENTITY = "coordinator.json", "operator.json", "identity.pem"
CERTIFICATE = "server.pem"
"""The server's certificate and its key, in one file."""
TEN_YEARS_S = 3650 * 86400.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``hanse coordinator init`` decides.

    ``hosts``: the names and addresses that sites may use. ``simulated``: secrets are given, not
    drawn: for ``hanse up`` and tests, on loopback only. ``parallel``: how many runs at once.
    """

    name: str
    hosts: tuple[str, ...]
    listen: str = "0.0.0.0"
    port: int = 8443
    database: str = ""
    simulated: bool = False
    parallel: int = 4


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of one coordinator."""

    folder: Path

    def create(self, settings: Settings) -> str:
        """Make keys and journal, and an operator's token; return the authority's fingerprint.

        Raises ConfigError for a folder that is taken, or settings that cannot be meant.
        """
        if not NAME.fullmatch(settings.name):
            raise ConfigError(
                f"{settings.name!r} is no name", hint="use lower-case letters, digits and hyphens"
            )
        if (self.folder / SETTINGS).exists():
            raise ConfigError(
                f"{self.folder} holds a coordinator already",
                hint="start it: hanse coordinator start; or give another --home",
            )
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        token = secrets.token_urlsafe(32)
        journal = Journal.open(settings.database or self.folder / "journal.db")
        try:  # keys last: an init that failed at its database can be typed again
            authority = Authority.create(self.folder, settings.name)
            IdentityKey.create(self.folder / IDENTITY)
            operator = {
                "name": "operator",
                "role": "operator",
                "token": token_digest(token),
                "expires": time.time() + TEN_YEARS_S,
                "secret": "",
            }
            journal.append_now("registry", [("logged_in", operator)])  # pyright: ignore
        finally:
            journal.close()
        write_private(self.folder / OPERATOR, json.dumps({"token": token}).encode())
        self.write(settings)
        return authority.fingerprint

    def write(self, settings: Settings) -> None:
        """Write the settings, which makes the folder a coordinator's."""
        write_private(self.folder / SETTINGS, json.dumps(asdict(settings), indent=1).encode())

    def settings(self) -> Settings:
        """Return the settings; ConfigError if there is no coordinator here."""
        try:
            told: dict[str, Any] = json.loads((self.folder / SETTINGS).read_text())
            told["hosts"] = tuple(told["hosts"])
            return Settings(**told)
        except FileNotFoundError:
            raise ConfigError(
                f"there is no coordinator in {self.folder}",
                hint="make one: hanse coordinator init --name NAME",
            ) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{self.folder / SETTINGS} cannot be read: {error}", hint="restore it from a copy"
            ) from error

    def journal(self, settings: Settings, **how: Any) -> Journal:
        """Open the journal."""
        return Journal.open(settings.database or self.folder / "journal.db", **how)
