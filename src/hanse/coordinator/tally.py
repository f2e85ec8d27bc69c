"""How many events of each kind the journal has."""

import threading
from collections import Counter

from hanse.coordinator.history import History


class Tally:
    """The journal's events by kind; each is counted once, when it is first asked for."""

    def __init__(self, history: History) -> None:
        """Nothing is counted yet."""
        self._history, self._lock = history, threading.Lock()
        self.head, self.kinds = 0, Counter[str]()

    def catch_up(self) -> None:
        """Count what has been written since; JournalBroken if it cannot be read."""
        with self._lock:
            for kind, (count, last) in self._history.counts(self.head).items():
                self.kinds[kind] += count
                self.head = max(self.head, last)
