"""The network between sites and the coordinator: it delays, reorders, loses and doubles."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hanse.faultsim.coordinator import Coordinator
from hanse.faultsim.world import World

TIMEOUT_S = 30.0
LATENCY_S = 0.005


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer came."""


@dataclass
class Network:
    """The lines of all sites. ``deaf``: whose requests do not come through; ``mute``: whose answers
    do not. ``loss`` and ``double`` are probabilities; ``slow`` multiplies what a line takes.
    """

    world: World
    coordinator: Coordinator
    deaf: Counter[str] = field(default_factory=Counter[str])
    mute: Counter[str] = field(default_factory=Counter[str])
    loss: float = 0.0
    double: float = 0.0
    slow: float = 1.0

    def call(
        self, site: str, ask: Callable[[Coordinator], Any], told: Callable[[Any], None]
    ) -> None:
        """Send a request; ``told`` is called once, with the answer or with Lost."""
        self._ask(site, lambda answer: lambda coordinator: answer(coordinator.asked(ask)), told)

    def poll(self, site: str, have: str, told: Callable[[Any], None]) -> None:
        """Send a poll, which is answered when there is news."""
        self._ask(
            site, lambda answer: lambda coordinator: coordinator.poll(site, have, answer), told
        )

    def _ask(
        self,
        site: str,
        deliver: Callable[[Callable[[Any], None]], Callable[[Coordinator], None]],
        told: Callable[[Any], None],
    ) -> None:
        waits = [True]

        def end(answer: Any) -> None:
            if waits.pop() if waits else False:
                told(answer)

        def back(answer: Any) -> None:
            if not self._is_lost(self.mute, site):
                self.world.after(self._delay(), lambda: end(answer))

        def arrive() -> None:
            if self.coordinator.live is None:
                self.world.after(LATENCY_S, lambda: end(Lost()))  # refused: nobody listens
            else:
                deliver(back)(self.coordinator)

        copies = 1 + (self.world.random.random() < self.double)
        for _ in range(copies):
            if not self._is_lost(self.deaf, site):
                self.world.after(self._delay(), arrive)
        self.world.after(TIMEOUT_S, lambda: end(Lost()))

    def _is_lost(self, cut: Counter[str], site: str) -> bool:
        return cut[site] > 0 or self.world.random.random() < self.loss

    def _delay(self) -> float:
        return self.world.random.expovariate(1 / (LATENCY_S * self.slow))
