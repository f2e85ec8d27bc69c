"""What the release gate asks of the ledger of privacy spent, per data set, at its owner.

Two phases (security design D3): a release is *reserved* before anything is computed, *debited* with
the digest of its bytes before the first of them leaves, and has a *receipt* when it has arrived.
From the debit on it is spent, whatever becomes of it; only a reservation can be made void. All four
are idempotent: a site that was stopped says again what it said before.

:class:`NoBudget` accounts for nothing, and therefore lets nothing leave that claims an ε. It does
not protect what leaves without such a claim.
"""

from dataclasses import dataclass
from typing import Protocol

from hanse.errors import BudgetError


@dataclass(frozen=True, slots=True)
class Claim:
    """The privacy that a run says one release costs each of ``sources``; ε None: it claims none."""

    sources: tuple[str, ...] = ()
    epsilon: float | None = None
    delta: float = 0.0


FREE = Claim()


class Ledger(Protocol):
    """Keeps what has been spent, durably. ``release`` is a release's own name, used once."""

    def reserve(self, release: str, claim: Claim) -> None:
        """Set ``claim`` aside; BudgetError if it does not fit, or was reserved otherwise."""
        ...

    def debit(self, release: str, digest: str) -> None:
        """Spend what is reserved on the bytes of ``digest``; BudgetError for other bytes."""
        ...

    def receipt(self, release: str) -> None:
        """Note that the bytes of ``release`` have arrived."""
        ...

    def void(self, release: str) -> None:
        """Give back what is reserved; what is debited stays spent."""
        ...


class NoBudget:
    """The ledger of a site that keeps none: it permits what claims no ε."""

    def reserve(self, release: str, claim: Claim) -> None:
        """Refuse a claim of ε with BudgetError: nobody would hold the site to it."""
        if claim.epsilon is not None:
            raise BudgetError(
                f"{release} claims ε = {claim.epsilon:g}, and this site keeps no privacy ledger",
                hint="privacy across real sites comes with the privacy step: run without ε",
            )

    def debit(self, release: str, digest: str) -> None:
        """Spend nothing."""

    def receipt(self, release: str) -> None:
        """Note nothing."""

    def void(self, release: str) -> None:
        """Give back nothing."""
