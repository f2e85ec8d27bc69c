"""An answer on its way in: it goes to the spool, and is looked at as it passes."""

import threading
from dataclasses import dataclass, field

from hanse.coordinator.uploads import Upload, Writer
from hanse.core.intake import Inspection
from hanse.core.listing import CHUNK


@dataclass
class Receiving:
    """One answer: where it goes, and what it showed so far."""

    digest: str
    upload: Upload
    inspection: Inspection
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Look at what came before a restart."""
        for number, chunk in enumerate(self.upload.chunks()):
            self.inspection.look(number * CHUNK, chunk)

    def writer(self, first: int) -> Writer | None:
        """Return what takes the bytes of one connection, which begins with chunk ``first``.

        That of another takes nothing more. None, and nothing changes, if another chunk is awaited.
        """
        with self.lock:
            return self.upload.writer() if self.upload.next == first else None

    def take(self, writer: Writer, piece: "bytes | bytearray | memoryview") -> None:
        """Keep and inspect the next bytes; errors as of ``Writer.write``."""
        with self.lock:
            at = writer.at
            writer.write(piece)
            self.inspection.look(at, piece)
