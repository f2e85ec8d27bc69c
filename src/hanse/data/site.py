"""Where a data function runs: at a site, which knows its id and the paths of its sources."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hanse.errors import ConfigError, DataError

ID = re.compile(r"[a-z0-9][a-z0-9-]*")


def check_id(site: str) -> str:
    """Return ``site`` if it is a site id (``[a-z0-9][a-z0-9-]*``); else raise ConfigError."""
    if not (isinstance(site, str) and ID.fullmatch(site)):  # pyright: ignore[reportUnnecessaryIsInstance] -- users number sites
        raise ConfigError(
            f"{site!r} is not a site id",
            hint="use lower-case letters, digits and hyphens, such as va-long-beach",
        )
    return site


@dataclass(frozen=True)
class Site:
    """What ``data(site)`` is given: ``id``, a ``seed`` of its own, and its sources by name."""

    id: str
    sources: Mapping[str, Path] = field(default_factory=dict[str, Path])
    seed: int = 0

    @property
    def number(self) -> int:
        """The number at the end of ``id``, for clients that are numbered; ValueError if none is."""
        return int(self.id.rpartition("-")[2])

    def source(self, name: str) -> Path:
        """Return the path of the source ``name`` at this site; DataError if it has none."""
        path = self.sources.get(name)
        if path is None:
            known = ", ".join(sorted(self.sources)) or "none"
            raise DataError(
                f"{self.id} has no source {name!r} (it has {known})",
                hint=f'name it: [sources] {name} = "path/to/file" in a run file that is simulated, '
                f"--source {name}=PATH at a site",
            )
        if not path.exists():
            raise DataError(
                f"{self.id}: source {name!r} is {path}, which does not exist",
                hint="correct the path; in a run file it is relative to the run file",
            )
        return path
