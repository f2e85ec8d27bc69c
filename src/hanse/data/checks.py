"""What every partitioner asks of its arguments before it draws."""

from collections.abc import Mapping

from hanse.data.labels import Columns
from hanse.errors import ConfigError, DataError


def length(data: Columns) -> int:
    """Return the number of rows; raise DataError if there are none."""
    if isinstance(data, Mapping):
        if not data:
            raise DataError("the table has no columns", hint="check what the data function returns")
        data = next(iter(data.values()))
    if not len(data):
        raise DataError("the data set is empty", hint="check what the data function returns")
    return len(data)


def check_room(n: int, clients: int, minimum: int) -> None:
    """Raise if there are no clients, or not ``minimum`` rows for each of them."""
    if clients < 1:
        raise ConfigError(f"clients = {clients} is no population", hint="take one client or more")
    if n < clients * minimum:
        raise DataError(
            f"{n} rows cannot give {clients} clients at least {minimum} each",
            hint=f"take at most {n // minimum} clients, or a smaller minimum",
        )


def check_alpha(alpha: float) -> None:
    """Raise ConfigError if ``alpha`` is too small or too large to draw with."""
    if not 1e-6 <= alpha <= 1e6:
        raise ConfigError(
            f"alpha = {alpha} is no concentration: it must lie between 1e-6 and 1e6",
            hint='0.1 is strong skew, 0.5 common, 100 nearly none; for none take "iid"',
        )


def check_minimum(minimum: int) -> None:
    """Raise ConfigError if ``minimum`` is negative."""
    if minimum < 0:
        raise ConfigError(f"minimum = {minimum} is no number of rows", hint="take 0 or more")
