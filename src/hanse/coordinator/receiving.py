"""An answer on its way in: its chunks go to the spool, and are looked at as they pass."""

import threading
from dataclasses import dataclass, field

from hanse.coordinator.spool import Upload
from hanse.core.intake import Inspection


@dataclass
class Receiving:
    """One announced answer: where its chunks go, and what they showed."""

    digest: str
    upload: Upload
    inspection: Inspection
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, number: int, chunk: "bytes | bytearray | memoryview") -> None:
        """Keep and inspect a chunk; one that is there already changes nothing."""
        with self.lock:
            if number < self.upload.next:
                return
            self.upload.write(number, chunk)
            self.inspection.look(number, chunk)
