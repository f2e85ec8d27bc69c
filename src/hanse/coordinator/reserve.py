"""Room that is set aside: a coordinator whose disk is full gives it up, and can answer and tell.

As long as the reserve is not there, runs wait and no blob is taken, so that what was set aside is
for the journal. It is taken again when there is room.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

MOST, LEAST, PART = 64 * 2**20, 2**19, 512
"""Bytes of a reserve at most and at least, and the part of the disk that it is between them."""


class Reserve:
    """The file ``reserve`` in ``folder``. Looked at by one thread, read by all."""

    def __init__(self, folder: Path) -> None:
        """See whether it is there."""
        self.path = folder / "reserve"
        self.size = min(MOST, max(LEAST, shutil.disk_usage(folder).total // PART))
        self.is_held = self.path.exists() and self.path.stat().st_size >= self.size

    @property
    def free(self) -> int:
        """The bytes that are free under the folder; what is set aside is not."""
        return shutil.disk_usage(self.path.parent).free

    def look(self) -> bool:
        """Give it up when less than its size is free, take it when there is three times that.

        Return whether it is held. OSError if the disk fails, not if it is full.
        """
        if self.is_held and self.free < self.size:
            self.is_held = False
            self.path.unlink()
        elif not self.is_held and self.free >= 3 * self.size:
            self.is_held = self._take()
        return self.is_held

    def _take(self) -> bool:
        self.path.unlink(missing_ok=True)
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with suppress(OSError):
                os.posix_fallocate(file, 0, self.size)
                return True
        finally:
            os.close(file)
        self.path.unlink()
        return False
