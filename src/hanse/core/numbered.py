"""The names of a population so large that nobody lists them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

AT_ONCE: Final = 2**18
"""Names whose draws are in memory at once."""


@dataclass(frozen=True, slots=True)
class Numbered(Sequence[str]):
    """``device-000`` … ``device-999``, sorted: as many as ``total``, in no memory at all."""

    prefix: str
    total: int

    @property
    def digits(self) -> int:
        """How many digits each number has."""
        return len(str(self.total - 1))

    def __len__(self) -> int:
        """Return how many there are."""
        return self.total

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return a name, or those of a slice."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self.total))]
        number = range(self.total)[index]
        return f"{self.prefix}-{number:0{self.digits}d}"

    def __iter__(self) -> Iterator[str]:
        """Yield all names."""
        return (self[number] for number in range(self.total))

    def __contains__(self, name: object) -> bool:
        """Return whether ``name`` is one of them."""
        return isinstance(name, str) and self.find(name) is not None

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """Return the number of a name; ValueError if it is none."""
        number = self.find(value)
        if number is None or not start <= number < (self.total if stop is None else stop):
            raise ValueError(f"{value!r} is none of {self.total} names")
        return number

    def find(self, name: str) -> int | None:
        """Return the number of a name; None if it is none."""
        front, dash, digits = name.rpartition("-")
        if (front, dash, len(digits)) != (self.prefix, "-", self.digits):
            return None
        if not (digits.isascii() and digits.isdecimal()):
            return None
        number = int(digits)
        return number if number < self.total else None

    def pieces(self) -> Iterator[tuple[int, NDArray[np.uint64]]]:
        """Yield (first number, numbers) of all, AT_ONCE at a time."""
        for first in range(0, self.total, AT_ONCE):
            yield first, np.arange(first, min(first + AT_ONCE, self.total), dtype=np.uint64)


def in_order(names: Sequence[str]) -> Sequence[str]:
    """Return ``names``, sorted."""
    return names if isinstance(names, Numbered) else sorted(names)
