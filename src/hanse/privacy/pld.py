"""ε over a grid of privacy losses (Meiser, Mohammadi, CCS 2018; Koskela, Jälkö, Honkela,
arXiv:1906.03049), by Google's dp-accounting: an optional package, imported here only.
"""

from importlib.util import find_spec
from typing import Any, Final

from hanse.core.dp_events import (
    Composed,
    Event,
    Gaussian,
    Laplace,
    Nothing,
    PoissonSampled,
    Repeated,
)

GRIDS: Final = (4e-4, 1e-4, 2.5e-5, 6.25e-6)
"""Steps of the grid, one after another until ε stands. Each is an upper bound."""
RELATIVE, ABSOLUTE = 1e-3, 1e-4


def is_installed() -> bool:
    """Return whether dp-accounting is there."""
    return find_spec("dp_accounting") is not None


def is_on_a_grid(event: Event) -> bool:
    """Return whether there is a grid for ``event``: no sampling of a fixed size, no Skellam."""
    match event:
        case Gaussian() | Laplace() | Nothing():
            return True
        case PoissonSampled(_, inner):
            return isinstance(inner, Gaussian | Laplace)
        case Repeated(inner, _):
            return is_on_a_grid(inner)
        case Composed(events):
            return all(map(is_on_a_grid, events))
        case _:
            return False


def epsilon(event: Event, delta: float, *, finest: float = GRIDS[-1]) -> float:
    """Return ε at ``delta``, pessimistically rounded, on a grid that is refined until it stands:
    to a thousandth of ε plus 1e-4, or until the step is ``finest``.
    """
    found = float("inf")
    for step in GRIDS:
        before, found = found, min(found, _on_grid(event, delta, step))
        if before - found <= RELATIVE * found + ABSOLUTE or step <= finest:
            break
    return found


def _on_grid(event: Event, delta: float, step: float) -> float:
    from dp_accounting.pld import PLDAccountant  # pyright: ignore -- it has no stubs

    accountant: Any = PLDAccountant(value_discretization_interval=step)
    accountant.compose(_theirs(event))
    return max(0.0, float(accountant.get_epsilon(delta)))


def _theirs(event: Event) -> Any:
    import dp_accounting as dp  # pyright: ignore -- it has no stubs

    theirs: Any = dp
    match event:
        case Gaussian(multiplier):
            return theirs.GaussianDpEvent(multiplier)
        case Laplace(multiplier):
            return theirs.LaplaceDpEvent(multiplier)
        case PoissonSampled(rate, inner) if rate > 0:
            return theirs.PoissonSampledDpEvent(rate, _theirs(inner))
        case Repeated(inner, count) if count > 0:
            return theirs.SelfComposedDpEvent(_theirs(inner), count)
        case Composed(events):
            return theirs.ComposedDpEvent([_theirs(inner) for inner in events])
        case _:
            return theirs.NoOpDpEvent()
