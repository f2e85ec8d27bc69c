"""Who may talk to the coordinator: sites, researchers and operators, folded from journalled events.

Secrets are here as their SHA-256 only. Names are used once: a revoked site or user needs another
name, so that an old signature can never be taken for a new one's.
"""

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hanse.core.canonical import digest
from hanse.errors import ConfigError
from hanse.net.keys import is_public
from hanse.net.problems import Conflict, NotTrusted

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
Role = Literal["site", "researcher", "viewer", "operator"]
ROLES: tuple[Role, ...] = ("site", "researcher", "viewer", "operator")


@dataclass(frozen=True, slots=True)
class Invitation:
    """A token that was handed out: for one name and role, once, until ``expires``."""

    name: str
    role: Role
    expires: float


@dataclass(frozen=True, slots=True)
class Member:
    """A site: its identity key, the digest of its invitation's secret, whether it is revoked."""

    key: str
    joined: float
    secret: str = ""
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class User:
    """A person: role, the digest of the bearer token, and until when it counts."""

    role: Role
    token: str
    expires: float
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Restored:
    """The backup of the moment ``at``, whose journal ended with event ``seq``."""

    seq: int
    at: str


@dataclass(frozen=True)
class Registry:
    """Open invitations by their secret's digest, sites and users by name."""

    invitations: Mapping[str, Invitation] = field(default_factory=dict[str, Invitation])
    sites: Mapping[str, Member] = field(default_factory=dict[str, Member])
    users: Mapping[str, User] = field(default_factory=dict[str, User])
    restored: "Restored | None" = None
    """From which backup the coordinator was made again, if it was."""
    disk_is_full: bool = False

    @property
    def roster(self) -> list[dict[str, str]]:
        """The roster of docs/protocol.md §4."""
        live = sorted(n for n, member in self.sites.items() if not member.revoked)
        return [{"key": self.sites[name].key, "name": name} for name in live]

    @property
    def roster_digest(self) -> str:
        """The digest that a site accepts."""
        return digest(self.roster)

    def invited(self, secret: str, now: float) -> Invitation:
        """Return the invitation with this secret's digest; NotTrusted unless it counts now."""
        for known, invitation in self.invitations.items():
            if hmac.compare_digest(known, secret):
                if now >= invitation.expires:
                    raise NotTrusted(f"the invitation of {invitation.name} has expired")
                return invitation
        raise NotTrusted("no such invitation, or it is used")

    def check_free(self, name: str, role: str) -> None:
        """Raise ConfigError for a name that is none, Conflict for one that is taken.

        A person may be invited again in the same role, to log in anew; a site's name is used once.
        """
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"{name[:80]!r} is no name", hint="use lower-case letters, digits and hyphens"
            )
        known = self.users.get(name)
        again = known is not None and known.role == role and not known.revoked
        if name in self.sites or (known is not None and not again):
            raise Conflict(f"{name} is taken", hint="choose another name")

    def user_of(self, token: str, now: float) -> tuple[str, User] | None:
        """Return the user whose bearer token has this digest, if it counts now."""
        for name, user in self.users.items():
            if hmac.compare_digest(user.token, token) and not user.revoked and now < user.expires:
                return name, user
        return None


def fold(registry: Registry, kind: str, body: Mapping[str, Any]) -> Registry:
    """Return the registry after an event of the journal; ValueError for one that is none."""
    try:
        return _fold(registry, kind, body)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{kind} with {', '.join(body)} is no event of the registry") from error


def _fold(registry: Registry, kind: str, body: Mapping[str, Any]) -> Registry:
    match kind:
        case "invited":
            found = Invitation(body["name"], body["role"], body["expires"])
            return replace(registry, invitations={**registry.invitations, body["secret"]: found})
        case "joined":
            if not is_public(body["key"]):
                raise ValueError(f"{body['key']!r} is no identity key")
            sites = {
                **registry.sites,
                body["name"]: Member(body["key"], body["now"], body["secret"]),
            }
            return replace(_used(registry, body["secret"]), sites=sites)
        case "logged_in":
            user = User(body["role"], body["token"], body["expires"])
            users = {**registry.users, body["name"]: user}
            return replace(_used(registry, body["secret"]), users=users)
        case "revoked":
            name = body["name"]
            sites, users = dict(registry.sites), dict(registry.users)
            if name in sites:
                sites[name] = replace(sites[name], revoked=True)
            if name in users:
                users[name] = replace(users[name], revoked=True)
            kept = {key: one for key, one in registry.invitations.items() if one.name != name}
            return replace(registry, sites=sites, users=users, invitations=kept)
        case "disk_full" | "disk_freed":
            return replace(registry, disk_is_full=kind == "disk_full")
        case "restored":
            return replace(registry, restored=Restored(body["seq"], body["at"]))
        case _:
            raise ValueError(f"{kind} is no event of the registry")


def _used(registry: Registry, secret: str) -> Registry:
    left = {key: found for key, found in registry.invitations.items() if key != secret}
    return replace(registry, invitations=left)
