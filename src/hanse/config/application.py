"""The code of a run as a digest: a site runs what its operator installed, and only if it is that.

Code is never shipped. A run's spec names each file of the app folder with its SHA-256; a site
compares them with its own folder, copies exactly those files to a fresh place, hashing what it
copies, and runs the copy. It says which code runs, not whether that code is harmless, and not
which packages it imports.
"""

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import cast

from hanse.core import canonical
from hanse.errors import ConfigError, ProtocolError

MOST_FILES = 4096
MOST_BYTES = 16 * 2**20
APART = frozenset({"__pycache__", "runs"})
HASH = re.compile(r"[0-9a-f]{64}")
Manifest = Mapping[str, str]
"""Path below the folder, with slashes → SHA-256 in hex; sorted by path."""


@dataclass(frozen=True)
class Application:
    """An app folder, and what its code was when it was looked at."""

    folder: Path
    manifest: Manifest

    @staticmethod
    def at(folder: Path, extra: Iterable[str] = ()) -> "Application":
        """Return the app in ``folder``; raises as :func:`manifest` does."""
        return Application(folder, manifest(folder, extra))

    @cached_property
    def digest(self) -> str:
        """What the app is known by."""
        return digest(self.manifest)


def manifest(folder: Path, extra: Iterable[str] = ()) -> Manifest:
    """Return path → SHA-256 of every ``*.py`` below ``folder``, and of the ``extra`` files.

    Left out is what is hidden, ``__pycache__``, ``runs`` and virtual environments. Raises
    ConfigError for a file that cannot be read or leads out of the folder, a link to a folder, more
    than 4,096 files or one above 16 MiB, and where there is no code at all.
    """
    root = _folder(folder)
    found = {*_code(root), *(_checked(root, str(PurePosixPath(path))) for path in extra)}
    if not any(path.endswith(".py") for path in found):
        raise ConfigError(f"{folder} holds no *.py file", hint="name the folder that has the app")
    if len(found) > MOST_FILES:
        raise ConfigError(
            f"{folder} holds {len(found)} files of code; an app has at most {MOST_FILES}",
            hint="is it the app's own folder?",
        )
    return {path: hashlib.sha256(_read(root, path)).hexdigest() for path in sorted(found)}


def digest(manifest: Manifest) -> str:
    """Return the SHA-256 of the canonical JSON of ``manifest``, in hex."""
    return canonical.digest(dict(manifest))


def read_manifest(told: object) -> Manifest:
    """Return a manifest that a peer sent; ProtocolError unless it is one."""
    if not isinstance(told, Mapping) or not 1 <= len(cast("Manifest", told)) <= MOST_FILES:
        raise ProtocolError("the manifest of an app is not a table of files")
    for path, hash in cast("Mapping[object, object]", told).items():
        known = isinstance(hash, str) and HASH.fullmatch(hash)
        if not (known and isinstance(path, str) and _is_inside(path)):
            raise ProtocolError(f"the manifest of an app has the file {str(path)[:80]!r}")
    return dict(sorted(cast("Manifest", told).items()))


def difference(spec: Manifest, here: Manifest) -> str | None:
    """Return one sentence on the first file by which ``here`` is not what ``spec`` says, or None.

    First by path. The files' contents are in neither, so it tells where to look and no more.
    """
    for path in sorted({*spec, *here}):
        if path not in here:
            return f"{path} belongs to the run's app and is missing here"
        if path not in spec:
            return f"{path} is here and does not belong to the run's app"
        if spec[path] != here[path]:
            return f"{path} is not the run's: {here[path][:16]}… here, {spec[path][:16]}… there"
    return None


def freeze(folder: Path, manifest: Manifest, into: Path) -> Path:
    """Copy exactly the files of ``manifest`` into the new folder ``into``, read-only; return it.

    Each file is read once, and what was read is hashed and written: what runs is what was checked,
    whatever becomes of ``folder`` meanwhile. Raises ConfigError if ``into`` is there already, or a
    file is not what the manifest says; then nothing is left behind. :func:`thaw` removes it.
    """
    root = _folder(folder)
    try:
        into.mkdir(mode=0o700)
    except OSError as error:
        raise _unusable(into, "made", error) from error
    try:
        for path, expected in manifest.items():
            _copy(root, _checked(root, path), expected, into)
        for place in (into, *(p for p in into.rglob("*") if p.is_dir())):
            place.chmod(0o500)
    except OSError as error:
        thaw(into)
        raise _unusable(into, "written", error) from error
    except BaseException:
        thaw(into)
        raise
    return into


def thaw(frozen: Path) -> None:
    """Remove a folder that :func:`freeze` made."""
    for place in (frozen, *(p for p in frozen.rglob("*") if p.is_dir())):
        place.chmod(0o700)
    shutil.rmtree(frozen)


def _copy(root: Path, path: str, expected: str, into: Path) -> None:
    content = _read(root, path)
    if hashlib.sha256(content).hexdigest() != expected:
        raise ConfigError(
            f"{root / path} has changed since it was checked",
            hint="leave the app alone while a run uses it; start the run again",
        )
    target = into / path
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
        file.write(content)


def _folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder", hint="name the folder that has the app")
    return folder.resolve()


def _code(root: Path) -> Iterator[str]:
    """Yield the path of every file of code below ``root``."""
    for place, folders, files in os.walk(root, onerror=_raise):
        here = Path(place)
        folders[:] = [name for name in folders if not _is_apart(here / name)]
        for name in folders:
            if (here / name).is_symlink():
                raise ConfigError(
                    f"{here / name} is a link to a folder, so nobody knows what code it holds",
                    hint="put the folder itself there; data go by --source NAME=PATH",
                )
        for name in files:
            if name.endswith(".py") and not name.startswith("."):
                path = (here / name).relative_to(root).as_posix()
                yield _checked(root, path, is_link=(here / name).is_symlink())


def _is_apart(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name in APART or (folder / "pyvenv.cfg").exists()


def _checked(root: Path, path: str, *, is_link: bool = True) -> str:
    """Return ``path`` as it stands in a manifest, if it names a file inside ``root``.

    ``is_link``: links may be on the way, so it is followed to where it really is.
    """
    if not _is_inside(path) or (is_link and not (root / path).resolve().is_relative_to(root)):
        raise ConfigError(
            f"the app's file {path!r} leads out of {root}", hint="put a copy into the folder"
        )
    return path


def _is_inside(path: str) -> bool:
    """Tell whether ``path`` is plain: relative, in one form, and in letters that JSON can say."""
    parts = path.split("/")
    return (
        path == str(PurePosixPath(path))
        and path.isprintable()
        and len(path) <= 1024
        and not any(part in ("", ".", "..") for part in parts)
    )


def _read(root: Path, path: str) -> bytes:
    try:
        opened = os.open(root / path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(opened, "rb") as file:
            is_file = stat.S_ISREG(os.fstat(opened).st_mode)
            content = file.read(MOST_BYTES + 1) if is_file else b""
    except OSError as error:
        raise _unusable(root / path, "read", error) from error
    if not is_file or len(content) > MOST_BYTES:
        raise ConfigError(
            f"{root / path} is " + ("above 16 MiB" if is_file else "not a file"),
            hint="an app is code and small files; data go by --source NAME=PATH",
        )
    return content


def _unusable(path: Path, done: str, error: OSError) -> ConfigError:
    said = (error.strerror or str(error)).lower()
    return ConfigError(f"{path} cannot be {done}: {said}", hint="check its rights")


def _raise(error: OSError) -> None:
    raise _unusable(Path(str(error.filename)), "read", error) from error
