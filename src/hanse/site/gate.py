"""The release gate: the only code that hands to the network what was computed from a site's data.

What leaves has a name (run, round, kind), is within what the run's spec claims of it, is permitted
by the site's policy, is debited in its ledger, and stands in its release log, on disk, before the
first byte goes. The same name never has two contents. A refusal depends on data too, so it goes
through here as well, and its reason stays at the site unless the policy releases reasons.

The gate does not judge whether a share that is within its bounds tells something about a person:
only noise limits that.
"""

import mmap
import os
from dataclasses import dataclass, field
from pathlib import Path

from hanse.core.intake import Inspection
from hanse.core.listing import CHUNK, Listing, digests
from hanse.core.pipeline import BoundPipeline
from hanse.errors import ConfigError, ProtocolError
from hanse.site.ledger import FREE, Claim, Ledger
from hanse.site.policy import Policy
from hanse.site.releases import REFUSED, Occasion, ReleaseLog

Content = bytes | bytearray | memoryview | Path
UNSAID = "the site refused; its operator can see why"


@dataclass(frozen=True, slots=True)
class Expected:
    """What the spec says of a release: of an update ``spec.bound``, of counts ``spec.tally``."""

    bound: BoundPipeline
    claim: Claim = FREE


@dataclass(frozen=True, slots=True)
class Released:
    """What may leave now: these bytes, or those of a file, and no others."""

    listing: Listing
    content: Content


@dataclass(frozen=True, slots=True)
class Withheld:
    """What does not leave. ``said`` is all that the coordinator may be told; ``reason`` stays."""

    said: str
    reason: str


@dataclass(frozen=True)
class Gate:
    """Decides what leaves, by the site's policy and ledger, and keeps the record of it."""

    policy: Policy
    ledger: Ledger
    record: ReleaseLog = field(repr=False)

    def reserve(self, occasion: Occasion, claim: Claim) -> None:
        """Set the privacy aside that a release will cost, before anything is computed for it.

        Raises BudgetError if the ledger does not permit it.
        """
        self.ledger.reserve(str(occasion), claim)

    def release(
        self, occasion: Occasion, content: Content, expected: Expected
    ) -> Released | Withheld:
        """Let the bytes of ``content`` (or of a file that nobody else writes) leave, or say why
        not.

        The same content may be released again, and has one line in the log. Raises BudgetError
        where the ledger refuses, ProtocolError where other bytes have left under this name, and
        ConfigError where the file or the log fails; then nothing may leave.
        """
        if occasion.kind not in self.policy.release:
            return self._withhold(occasion, _not_permitted(occasion.kind), public=True)
        view = _view(content)
        listing = _inspect(expected.bound, view)
        if isinstance(listing, str):
            return self.withhold(occasion, listing)
        self.ledger.reserve(str(occasion), expected.claim)
        self.ledger.debit(str(occasion), listing.id)
        self.record.once(occasion, listing.id, listing.size)
        return Released(listing, content)

    def withhold(self, occasion: Occasion, reason: str) -> Withheld:
        """Let a refusal leave in place of a release; ``reason`` goes with it if the policy says so.

        What was reserved is given back. Raises ProtocolError if a release has left by this name.
        """
        return self._withhold(occasion, reason, public="reasons" in self.policy.release)

    def arrived(self, occasion: Occasion) -> None:
        """Note that the coordinator has given a receipt for a release."""
        self.ledger.receipt(str(occasion))

    def _withhold(self, occasion: Occasion, reason: str, *, public: bool) -> Withheld:
        said = reason if public else UNSAID
        self.record.once(occasion, REFUSED, len(said.encode()))
        self.ledger.void(str(occasion))
        return Withheld(said, reason)


def _not_permitted(kind: str) -> str:
    return f'the site\'s policy does not let {kind} leave: its release has no "{kind}"'


def _inspect(bound: BoundPipeline, view: memoryview) -> Listing | str:
    """Return the listing of what is a release by the spec, or why it is none; one pass over it."""
    inspection, hashes = Inspection(bound), list[bytes]()
    if len(view) != inspection.frame.size:
        return f"a frame of {len(view)} bytes, not {inspection.frame.size}"
    try:
        for at in range(0, len(view), CHUNK):
            chunk = view[at : at + CHUNK]
            inspection.look(at, chunk)
            hashes += digests([chunk])
    except ProtocolError as error:
        return str(error)
    return inspection.verdict() or Listing(len(view), tuple(hashes))


def _view(content: Content) -> memoryview:
    """Return the bytes, a file's without reading it into memory."""
    if not isinstance(content, Path):
        return memoryview(content)
    try:
        with content.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
    except OSError as error:
        raise ConfigError(
            f"{content} cannot be read: {(error.strerror or str(error)).lower()}",
            hint="see to disk and rights of the site's home",
        ) from error
