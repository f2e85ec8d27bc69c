"""Virtual time: a queue of things to happen, one after another, all drawn from one seed."""

import heapq
from collections.abc import Callable
from itertools import count
from random import Random

COORDINATOR = "coordinator"


class Crashed(BaseException):
    """A process ends here and now. No error of the code's own: nothing may handle it.

    ``power``: the machine goes with it, and all that its disk was not asked to keep.
    """

    def __init__(self, who: str, *, power: bool = False) -> None:
        super().__init__(who)
        self.who, self.power = who, power


class World:
    """The queue. ``now`` is in virtual seconds."""

    def __init__(self, seed: int) -> None:
        """Nothing happens yet."""
        self.random, self.now, self.steps = Random(seed), 0.0, 0
        self._queue, self._number = list[tuple[float, int, Callable[[], object]]](), count()
        self._depth, self.acting = 0, COORDINATOR
        """``acting``: whose code runs now."""
        self.on_crash: Callable[[Crashed], None] = lambda crashed: None
        self.watch: Callable[[], None] = lambda: None
        """Called after each step."""

    def after(self, seconds: float, act: Callable[[], object]) -> None:
        """Let something happen in so many seconds."""
        heapq.heappush(self._queue, (self.now + seconds, next(self._number), act))

    def soon(self, act: Callable[[], object], most_s: float = 0.01) -> None:
        """Let something happen within ``most_s``: when, and before what else, is drawn."""
        self.after(self.random.uniform(0, most_s), act)

    def step(self) -> bool:
        """Let the next thing happen; False if there is none."""
        if not self._queue:
            return False
        at, _, act = heapq.heappop(self._queue)
        self.now, self.steps = max(self.now, at), self.steps + 1
        try:
            act()
        except Crashed as crashed:
            if crashed.who == COORDINATOR and self._depth:
                raise  # it ends whatever the coordinator was about to do, too
            self.on_crash(crashed)
        self.watch()
        return True

    def meanwhile(self, within_s: float = 0.02) -> None:
        """Let some of what is due soon happen while the coordinator waits for its disk."""
        if self._depth >= 2:
            return
        self._depth += 1
        try:
            for _ in range(self.random.choice((0, 0, 1, 2, 4))):
                if not self._queue or self._queue[0][0] > self.now + within_s:
                    break
                self.step()
        finally:
            self._depth -= 1

    def run(self, until: Callable[[], bool], most_s: float) -> bool:
        """Let things happen until ``until`` holds; False if it does not within ``most_s``."""
        while not until():
            if not self._queue or self._queue[0][0] > most_s:
                return False
            self.step()
        return True
