"""Whether a coordinator's folder is whole: nothing is changed, and it may run meanwhile."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanse.coordinator.blobs import BlobStore
from hanse.coordinator.database import database
from hanse.coordinator.history import History
from hanse.coordinator.home import IDENTITY, OPERATOR, SETTINGS, Home
from hanse.coordinator.live import LiveRun
from hanse.coordinator.registry import Registry, fold
from hanse.coordinator.runs import specification_of
from hanse.coordinator.spool import KEY, Room
from hanse.core import rounds
from hanse.errors import ConfigError, HanseError
from hanse.net.authority import ISSUER_FILE, KEY_FILE, Authority
from hanse.net.checks import Check, attempt, check_private
from hanse.net.keys import IdentityKey

RESTORE = "restore the last backup: hanse restore BACKUP --home DIR"


@dataclass(frozen=True)
class Found:
    """A run as journal and blobs have it, read only."""

    live: LiveRun
    document: str

    @property
    def needed(self) -> list[str]:
        """The ids of the blobs without which the run is lost."""
        return sorted(id for id in {self.document, *self.live.needed} if id)


def runs_of(history: History, blobs: Path) -> Iterator[tuple[str, Found]]:
    """Yield (id, run) of each run; errors as of ``BlobStore.map``, ValueError for odd events."""
    nothing: Any = None
    for stream in history.streams("run/"):
        id = stream.removeprefix("run/")
        store, begun = BlobStore(blobs / id, read_only=True), history.first(stream)
        body: Any = begun.body
        read, journal = specification_of(store, body["document"]), history
        told: Any = (id, read, body["model"], journal, store, nothing, nothing)
        yield id, Found(LiveRun(*told), body["document"])


def fsck(home: Home) -> list[Check]:
    """Return a row for each part; the first failure does not hide the next ones."""
    settings = home.settings()
    rows = [
        check_private(
            home.folder, SETTINGS, OPERATOR, IDENTITY, KEY_FILE, ISSUER_FILE, "journal.db"
        ),
        attempt("authority", lambda: f"root {Authority.load(home.folder).fingerprint[:16]}…"),
        attempt("identity", lambda: f"{IdentityKey.load(home.folder / IDENTITY).public[:16]}…"),
    ]
    where = settings.database or home.folder / "journal.db"
    with ExitStack() as stack:
        opened = list[History]()
        rows.append(attempt("journal", lambda: _journal(stack, where, opened)))
        for history in opened:
            rows.append(attempt("registry", lambda history=history: _registry(history)))
            rows += _runs(home, history, is_running(where))
    return rows


def is_running(where: str | Path) -> bool:
    """Whether a coordinator has the journal open now."""
    try:
        with ExitStack() as stack:
            database(where).write(stack)
    except ConfigError:
        return True
    return False


def _journal(stack: ExitStack, where: str | Path, opened: list[History]) -> str:
    history = stack.enter_context(History.of(where))
    events = history.verify()
    opened.append(history)
    return f"{events:,} events, each verified"


def _registry(history: History) -> str:
    registry = Registry()
    for entry in history.read("registry"):
        body: Any = entry.body
        registry = fold(registry, entry.kind, body)
    return f"{len(registry.sites)} sites, {len(registry.users)} people"


def _runs(home: Home, history: History, runs: bool) -> Iterator[Check]:
    known = list[str]()
    for stream in history.streams("run/"):
        id = stream.removeprefix("run/")
        known.append(id)
        yield attempt(id, lambda id=id: _run(home, history, id, looks=not runs))
    folder = home.folder / "blobs"
    strange = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    left = sorted({*strange} - {*known})
    if left and not runs:
        yield Check("left over", True, f"{', '.join(left)}: removed at the next start")


def _run(home: Home, history: History, id: str, *, looks: bool) -> Check:
    """Return the row of one run; its uploads are looked at only while no coordinator writes."""
    try:
        found = next(found for one, found in runs_of(history, home.folder / "blobs") if one == id)
        for blob in found.needed:
            found.live.blobs.map(blob)
        now, uploads = found.live.course, ""
        if looks and isinstance(now.opened, rounds.Open | rounds.Done) and now.blobs:
            uploads = _uploads(home, id, now.round + 1, now.blobs)
    except (OSError, ValueError, HanseError) as error:
        return Check(id, False, str(error), RESTORE)
    said = f"{now.outcome or now.stage}, {now.round} rounds, {len(found.needed)} blobs"
    return Check(id, True, said + uploads)


def _uploads(home: Home, id: str, round: int, blobs: Mapping[str, str]) -> str:
    """Say of the shares that are receipted and not summed yet whether they are whole."""
    room = home.folder / "spool" / f"{id}@{2 * round}"
    lost = [site for site, blob in blobs.items() if not _is_whole(room, site, blob)]
    if lost:
        return f"; the updates of {', '.join(lost)} are gone, and will be asked for again"
    return f", {len(blobs)} uploads"


def _is_whole(room: Path, site: str, blob: str) -> bool:
    key = room / "key"
    if not key.exists() or key.stat().st_size != KEY:
        return False
    try:
        upload = Room(room).found(site)
    except FileNotFoundError:
        return False
    return upload.listing.id == blob and upload.is_complete
