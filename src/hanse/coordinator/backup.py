"""A copy of a coordinator from which it can be made again, taken while it runs.

It holds the journal of one moment, the blobs that the runs of that moment need, settings and keys.
Updates of sites are in no copy: they are to be destroyed, and who sent one sends it again. A copy
has the coordinator's keys in it, and belongs where keys may lie.
"""

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hanse.coordinator.blobs import BlobStore, make_folder, sync_folder
from hanse.coordinator.fsck import runs_of
from hanse.coordinator.history import History
from hanse.coordinator.home import IDENTITY, OPERATOR, SETTINGS, Home
from hanse.coordinator.journal import Journal
from hanse.core.canonical import Json, encode
from hanse.errors import ConfigError
from hanse.net import succession
from hanse.net.authority import CERTIFICATE_FILE, ISSUER_FILE, KEY_FILE
from hanse.net.keys import write_private

MANIFEST = "manifest.json"
FORMAT = 1
TRIES = 20
KEPT = (SETTINGS, OPERATOR, IDENTITY, CERTIFICATE_FILE, ISSUER_FILE)
MAY_BE = (KEY_FILE, succession.FILE)
"""The root's key may lie elsewhere; keys that came later are named where there are any."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where a journal ends: the number and the hash of its last event."""

    seq: int
    hash: str


def backup(home: Home, target: Path) -> Head:
    """Copy the coordinator to the new folder ``target``; return where its journal ended.

    ConfigError if the folder is there, or what is to be copied is damaged. A copy is whole once its
    manifest is there.
    """
    settings = home.settings()
    if target.exists():
        raise ConfigError(f"{target} is there already", hint="name a folder that is not there yet")
    make_folder(target / "blobs")
    for name in (*KEPT, *(name for name in MAY_BE if (home.folder / name).exists())):
        write_private(target / name, (home.folder / name).read_bytes())
    where = settings.database or home.folder / "journal.db"
    with _staged(home) as stage:
        for _ in range(TRIES):
            (target / "journal.db").unlink(missing_ok=True)
            stage.link()
            with History.of(where) as history:
                Journal.restore(target / "journal.db", history.rows())
            stage.link()
            if (head := _copied(stage, target)) is not None:
                break
        else:
            raise ConfigError(
                "rounds went by faster than their models could be copied", hint="try again"
            )
    _seal(target, settings.name, head)
    return head


@dataclass(frozen=True)
class Stage:
    """Second names of the coordinator's blobs, which keep them while it deletes its own."""

    blobs: Path
    folder: Path

    def link(self) -> None:
        """Give a second name to every blob that is there now."""
        for file in self.blobs.glob("*/sha256/??/*"):
            beside = self.folder / file.relative_to(self.blobs)
            beside.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, beside)
            except FileExistsError:
                continue
            except FileNotFoundError:  # deleted a moment ago
                continue


@contextmanager
def _staged(home: Home) -> Generator[Stage]:
    folder = home.folder / "backup"
    shutil.rmtree(folder, ignore_errors=True)  # of a backup that was stopped
    make_folder(folder)
    try:
        yield Stage(home.folder / "blobs", folder)
    finally:
        shutil.rmtree(folder)


def _copied(stage: Stage, target: Path) -> Head | None:
    """Copy what the journal in ``target`` needs; None if some of it was deleted too early."""
    with History.of(target / "journal.db") as history:
        shutil.rmtree(target / "blobs")
        make_folder(target / "blobs")
        try:
            for id, found in runs_of(history, stage.folder):
                store, source = BlobStore(target / "blobs" / id), found.live.blobs
                for blob in found.needed:
                    with store.writer() as writer:
                        for chunk in source.open_chunks(blob):
                            writer.write(chunk)
                        writer.commit()
        except FileNotFoundError:
            return None
        last = history.newest()
        return Head(0, "") if last is None else Head(last.seq, last.hash)


def _seal(target: Path, name: str, head: Head) -> None:
    """Write the manifest, which makes the copy whole."""
    with closing(sqlite3.connect(target / "journal.db")) as journal:
        journal.execute("PRAGMA journal_mode = DELETE")  # to be read where nobody can write
    for left in target.glob("journal.db[.-]*"):
        left.unlink()
    files = {str(path.relative_to(target)): _digest(path) for path in _files(target)}
    told: dict[str, Json] = {
        "format": FORMAT,
        "name": name,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seq": head.seq,
        "hash": head.hash,
        "files": files,
    }
    write_private(target / MANIFEST, encode(told).encode())
    sync_folder(target)


def restore(source: Path, home: Home, database: str = "") -> Head:
    """Make the coordinator of a backup again, in a new folder; return where its journal goes on.

    The journal says so itself, and every site notices when the copy is older than what it was
    receipted. ConfigError if the copy is not whole, or the folder is taken.
    """
    manifest = check(source)
    head = Head(manifest["seq"], manifest["hash"])
    if home.folder.exists() and any(home.folder.iterdir()):
        raise ConfigError(
            f"{home.folder} is not empty", hint="name a new folder: --home DIR; move the old one"
        )
    make_folder(home.folder)
    for name in (*KEPT[1:], *(name for name in MAY_BE if (source / name).exists())):
        write_private(home.folder / name, (source / name).read_bytes())
    shutil.copytree(source / "blobs", home.folder / "blobs", dirs_exist_ok=True)
    settings = replace(Home(source).settings(), database=database)
    where = database or home.folder / "journal.db"
    with History.of(source / "journal.db") as history:
        Journal.restore(where, history.rows())
    journal = Journal.open(where)
    try:
        body: dict[str, Json] = {"seq": head.seq, "hash": head.hash, "at": manifest["at"]}
        journal.append_now("registry", [("restored", body)])
    finally:
        journal.close()
    home.write(settings)
    return head


def check(source: Path) -> dict[str, Any]:
    """Return the manifest of a backup; ConfigError unless every file is as it was written."""
    try:
        told: dict[str, Any] = json.loads((source / MANIFEST).read_text())
        files: dict[str, str] = told["files"]
        if told["format"] != FORMAT:
            raise ValueError(f"format {told['format']}")
    except FileNotFoundError:
        raise ConfigError(
            f"{source} is no backup, or one that was stopped", hint="it has no manifest.json"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{source / MANIFEST} cannot be read: {error}", hint=ANOTHER) from error
    found = {str(path.relative_to(source)): path for path in _files(source)}
    for name, digest in files.items():
        if name not in found or _digest(found[name]) != digest:
            raise ConfigError(f"{source / name} is not as it was written", hint=ANOTHER)
    return told


ANOTHER = "restore from another backup"


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
