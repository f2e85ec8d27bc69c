"""The JSON bodies that the coordinator takes, closed: an unknown name is an error (protocol §1)."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Hex64 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Role = Annotated[str, StringConstraints(pattern=r"^(site|researcher|viewer|operator)$")]
Pem = Annotated[str, StringConstraints(max_length=8192)]
Whole = Annotated[int, Field(ge=0, le=2**53)]


class Body(BaseModel):
    """A body with these names and no others."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Nothing(Body):
    """An empty object."""


class Join(Body):
    """A site enrols: its name, the token's secret, a certificate request, its identity key."""

    name: Name
    secret: Hex64
    request: Pem
    key: Hex64


class Login(Body):
    """A person exchanges a token's secret for a bearer token."""

    secret: Hex64


class OpenSession(Body):
    """A site opens a session."""

    site: Name
    challenge: Hex64


class Renew(Body):
    """A site asks for another certificate."""

    request: Pem


class Poll(Body):
    """What a site has seen (a digest of assignments, or empty), how long to wait, what it does."""

    have: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]
    wait: Annotated[float, Field(ge=0, le=25, strict=False)]
    doing: Annotated[str, StringConstraints(max_length=200)]


class Head(Body):
    """An entry of a privacy ledger: its number and its hash."""

    seq: Annotated[int, Field(ge=0, lt=2**53)]
    hash: Hex64


class LedgerHead(Body):
    """The last entry of a site's privacy ledger, and the one that it showed before."""

    after: Head
    head: Head


class Answer(Body):
    """A site's answer that is JSON."""

    body: dict[str, Any]


class Submission(Body):
    """A run: its canonical spec, the layout of its model, the id of the initial model's blob."""

    spec: Annotated[str, StringConstraints(max_length=8 * 2**20)]
    layout: dict[str, Any]
    model: Hex64


class Invite(Body):
    """An operator invites a site or a person."""

    name: Name
    role: Role
