"""A population so large that nobody lists it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from hanse.core import seeds
from hanse.core.canonical import Json
from hanse.core.numbered import Numbered
from hanse.data.site import Site
from hanse.errors import ConfigError
from hanse.sim.population import Pair, Targets, check_pair
from hanse.train.userland import userland


@dataclass(frozen=True)
class Devices:
    """So many clients that nobody lists them, each with data of its own: ``function(site)``.

    It returns (train, test), and is called whenever a client trains: nothing of its data stays. A
    million cost no more memory than a thousand. Test data is not looked at: give the run
    ``central``. ``site.number`` is the client's number, from 0.
    """

    function: Callable[[Site], object]
    clients: int
    sources: Mapping[str, Path] = field(default_factory=dict[str, Path])
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse an empty population."""
        if self.clients < 1:
            raise ConfigError(f"clients = {self.clients}", hint="give [population] clients >= 1")

    @property
    def is_many(self) -> bool:
        """Yes."""
        return True

    @cached_property
    def ids(self) -> Sequence[str]:
        """``device-000`` …."""
        return Numbered("device", self.clients)

    def seeded(self, seed: int) -> "Devices":
        """Return the same clients, which see another ``site.seed``."""
        return replace(self, seed=seed)

    def open(self, client: str) -> Pair:
        """Call the user's data function for the client."""
        key = seeds.key(self.seed, client, "data") >> 1
        site = Site(client, self.sources, key)
        with userland(site=client, phase="reading the data set"):
            return check_pair(self.function(site), client)

    def central(self) -> object | None:
        """Return None: give ``central`` to the run."""
        return None

    def summary(self, targets: Targets | None = None) -> dict[str, Json] | None:
        """Return None: nobody reads the data of all."""
        return None

    def settings(self) -> dict[str, Json]:
        """Return how many there are."""
        return {"partition": "own", "clients": self.clients}
