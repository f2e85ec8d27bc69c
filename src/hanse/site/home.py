"""A site's folder: who it is, its keys, policy, and what it keeps of runs; for its owner alone."""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hanse.errors import ConfigError
from hanse.net.keys import IdentityKey, read_private, write_private
from hanse.sim.files import write_whole
from hanse.site.policy import Policy

SITE, RECEIPT = "site.json", "receipt.json"


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What a site knows since it joined: its name, and where and who the coordinator is."""

    name: str
    url: str
    coordinator: str
    federation: str
    former: tuple[str, ...] = ()
    """The coordinator's keys that came before, each of which has named the next."""

    def known_as(self, key: str) -> str:
        """Return ``key`` if it is one of the coordinator's, else the one that it has now."""
        return key if key in self.former else self.coordinator


@dataclass(frozen=True, slots=True)
class SiteHome:
    """The folder of one site."""

    folder: Path

    @property
    def identity(self) -> Path:
        """The identity key's file."""
        return self.folder / "identity.pem"

    @property
    def certificate(self) -> Path:
        """The client certificate and its key, in one file."""
        return self.folder / "tls.pem"

    @property
    def authority(self) -> Path:
        """The certificate of the coordinator's authority."""
        return self.folder / "authority.pem"

    @property
    def policy(self) -> Path:
        """The owner's rules."""
        return self.folder / "policy.toml"

    @property
    def ledger(self) -> Path:
        """What runs have spent of the privacy of the data here."""
        return self.folder / "ledger.jsonl"

    def key(self) -> IdentityKey:
        """Return the site's identity key."""
        return IdentityKey.load(self.identity)

    def run(self, run: str) -> Path:
        """Return the folder of a run here, made if it is not there."""
        path = self.folder / "runs" / run
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def enrolled(self) -> Enrolled:
        """Return who this site is; ConfigError if it has not joined."""
        try:
            told: dict[str, Any] = json.loads(read_private(self.folder / SITE))
            told["former"] = tuple(told.get("former", ()))
            return Enrolled(**told)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{self.folder / SITE} is damaged", hint="join again") from error
        except ConfigError as error:
            if (self.folder / SITE).exists():
                raise
            raise ConfigError(
                f"{self.folder} is no site yet", hint="join: hanse site join https://… --name NAME"
            ) from error

    def keep(self, enrolled: Enrolled) -> None:
        """Write down who this site is."""
        write_private(self.folder / SITE, json.dumps(asdict(enrolled)).encode(), replace=True)

    def rules(self) -> Policy | None:
        """Return the policy, None if there is none; ConfigError for one that cannot be meant."""
        return Policy.read(self.policy) if self.policy.exists() else None

    def note(self, status: dict[str, Any]) -> None:
        """Write what ``hanse site status`` shows; a torn write, or none, does not matter.

        On a full disk the room that the file has already is used again.
        """
        path, new = self.folder / "status.json", self.folder / "status.json.new"
        text = json.dumps(status)
        try:
            new.write_text(text)
            os.replace(new, path)
        except OSError:
            with suppress(OSError), open(path, "r+") as file:
                file.write(text)
                file.truncate()

    def receipted(self, receipt: dict[str, Any]) -> None:
        """Keep the last receipt that names an event of the coordinator's journal."""
        if receipt.get("entry"):
            with suppress(OSError):  # a full disk: the one of before stays
                told = {"seq": receipt["seq"], "hash": receipt["entry"]}
                write_whole(self.folder / RECEIPT, json.dumps(told).encode(), durable=False)

    def receipt(self) -> tuple[int, str] | None:
        """Return number and hash of the event that the last receipt named; None without one."""
        try:
            told = json.loads((self.folder / RECEIPT).read_text())
            return int(told["seq"]), str(told["hash"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def status(self) -> dict[str, Any]:
        """Return what was noted last; empty if nothing was."""
        try:
            return json.loads((self.folder / "status.json").read_text())
        except (OSError, ValueError):
            return {}
