"""A file of lines, each of them on disk before it counts."""

import errno
import fcntl
import os
from pathlib import Path

from hanse.errors import ConfigError
from hanse.failpoints import Point, reach
from hanse.sim.files import sync_folder


class Lines:
    """Lines of one file, read once and then only appended to, by one process.

    A line that a crash cut short was none. The file is 0600 and locked. Raises ConfigError if it
    cannot be read or is another process's, and if it cannot be written: then nothing is written
    until :meth:`cut_back` has taken away what may not be on disk.
    """

    def __init__(self, path: Path, points: tuple[Point, Point], *, without: str) -> None:
        """Open the file at ``path``, or begin it there.

        ``points``: what is reached when a line is written, and when it is on disk; ``without``:
        what does not happen unless it is.
        """
        self.path, self._points, self._without = path, points, without
        self.is_broken, self._synced = False, 0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.found = self._read()
            os.fsync(self._file)  # who wrote the last line may have died before
            sync_folder(path.parent)
        except BlockingIOError:
            os.close(self._file)
            raise ConfigError(
                f"{path} is in use by another process",
                hint="stop it, or give this one a file of its own",
            ) from None
        except OSError as error:
            raise self._failed("opened", error) from error

    @property
    def is_closed(self) -> bool:
        """Whether the file was given back."""
        return self._file < 0

    def close(self) -> None:
        """Give the file to another process; nothing is written any more."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self.is_broken = -1, True

    def cut_back(self) -> list[bytes]:
        """Return the lines that are on disk after a failed write, and cut off all others.

        What a failed sync leaves in memory reads as if it were on disk, and later syncs pass over
        it (Rebello et al., "Can applications recover from fsync failures?", ATC 2020): so nothing
        counts that was written since the last sync that went well. ConfigError if that fails.
        """
        try:
            found = self._read(self._synced)
        except OSError as error:
            raise self._failed("read", error) from error
        self.is_broken = False
        return found

    def append(self, line: bytes, *, durable: bool = True) -> None:
        """Write a line, which ends with a newline; it is on disk when this returns."""
        if self.is_broken:
            raise ConfigError(
                f"{self.path} is closed: {self._without}", hint="see to disk and rights"
            )
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, "no space left for a whole line")
            reach(self._points[0])
            if durable:
                os.fsync(self._file)
                self._synced = os.lseek(self._file, 0, os.SEEK_CUR)
                reach(self._points[1])
        except OSError as error:
            self.is_broken = True
            raise self._failed("written", error) from error

    def _read(self, size: int | None = None) -> list[bytes]:
        """Return the whole lines, of ``size`` bytes if that is given; cut off what is behind."""
        os.lseek(self._file, 0, os.SEEK_SET)
        with open(self._file, "rb", closefd=False) as file:
            content = file.read()[:size]
        whole = content.rfind(b"\n") + 1
        if size is not None and whole < size:
            raise OSError(0, f"only {whole} of {size} bytes are left")
        os.ftruncate(self._file, whole)
        self._synced = os.lseek(self._file, whole, os.SEEK_SET)
        return content[:whole].splitlines()

    def _failed(self, what: str, error: OSError) -> ConfigError:
        said = (error.strerror or str(error)).lower()
        return ConfigError(
            f"{self.path} cannot be {what}: {said}; {self._without} without a line in it",
            hint="see to disk and rights",
        )


def whole_lines(path: Path) -> list[bytes]:
    """Return the whole lines of a file, which need not be there, without a lock."""
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1].splitlines()
