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
from typing import Protocol

from hanse.core.intake import Inspection
from hanse.core.ledger import Arrived, Debited, Entry, Ledger
from hanse.core.listing import CHUNK, Listing, digests
from hanse.core.pipeline import BoundPipeline
from hanse.errors import ConfigError, ProtocolError
from hanse.sim.files import sync_folder
from hanse.site.policy import Policy
from hanse.site.releases import REFUSED, Occasion, ReleaseLog

Content = bytes | bytearray | memoryview | Path
UNSAID = "the site refused; its operator can see why"


class Book(Protocol):
    """Keeps a ledger durably."""

    @property
    def ledger(self) -> Ledger:
        """What stands in it."""
        ...

    def note(self, entry: Entry) -> None:
        """Have ``entry`` in it; BudgetError if it is a wrong one, ConfigError if that fails."""
        ...


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
    book: Book
    record: ReleaseLog = field(repr=False)

    def release(
        self, occasion: Occasion, content: Content, bound: BoundPipeline
    ) -> Released | Withheld:
        """Let the bytes of ``content`` (or of a file that nobody else writes) leave, or say why
        not. ``bound``: what the spec says of it: of an update ``spec.bound``, of counts
        ``spec.tally``.

        The same content may be released again, and has one line in the log. Noised content is on
        disk before it is debited: it is drawn once, and what left must be there to leave again.
        Raises BudgetError where the ledger refuses, ProtocolError where other bytes have left under
        this name, and ConfigError where the file or the log fails; then nothing may leave.
        """
        if occasion.kind not in self.policy.release:
            return self._withhold(occasion, _not_permitted(occasion.kind), public=True)
        view = _view(content)
        listing = _inspect(bound, view)
        if isinstance(listing, str):
            return self.withhold(occasion, listing)
        self.record.check(occasion, listing.id)
        if bound.facts.keeps_counts and isinstance(content, Path):
            _sync(content)
        self._debit(occasion, listing.id)
        self.record.once(occasion, listing.id, listing.size)
        return Released(listing, content)

    def withhold(self, occasion: Occasion, reason: str) -> Withheld:
        """Let a refusal leave in place of a release; ``reason`` goes with it if the policy says so.

        It costs nothing. Raises ProtocolError if a release has left by this name.
        """
        return self._withhold(occasion, reason, public="reasons" in self.policy.release)

    def arrived(self, occasion: Occasion) -> None:
        """Note that the coordinator has given a receipt for a release."""
        if self.book.ledger.digest_of(occasion.run, occasion.release):
            self.book.note(Arrived(occasion.run, occasion.release))

    def known(self, occasion: Occasion) -> str:
        """Return the digest by which ``occasion`` has left or is debited, or nothing."""
        debited = self.book.ledger.digest_of(occasion.run, occasion.release)
        return debited or self.record.known(occasion)

    def _debit(self, occasion: Occasion, digest: str) -> None:
        """Debit a release; of a run that no noise bounds the first one says it all."""
        account = self.book.ledger.accounts.get(occasion.run)
        if account is None or account.reserved.tells or not account.debits:
            self.book.note(Debited(occasion.run, occasion.release, digest))

    def _withhold(self, occasion: Occasion, reason: str, *, public: bool) -> Withheld:
        said = reason if public else UNSAID
        self.record.once(occasion, REFUSED, len(said.encode()))
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


def _sync(path: Path) -> None:
    """Return when a file and its name are on disk."""
    try:
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be forced to the disk: {(error.strerror or str(error)).lower()}; "
            "nothing noised leaves before that",
            hint="see to the disk of the site's home",
        ) from error


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
