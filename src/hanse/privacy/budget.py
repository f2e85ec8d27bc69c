"""Whether what a run asks of a data set still fits what its owner lets all runs spend."""

from collections.abc import Mapping
from dataclasses import dataclass

from hanse.core.dp_events import Event
from hanse.core.ledger import Ledger, Reserved, Unit, step
from hanse.core.spec import Against
from hanse.errors import BudgetError, ConfigError
from hanse.privacy.accounting import Epsilon, spent


@dataclass(frozen=True, slots=True)
class Cap:
    """The ε, at ``delta``, that all runs together may tell ``against`` of one ``unit``."""

    epsilon: float
    delta: float = 1e-6
    unit: Unit = "client"
    against: Against = "coordinator"

    def __str__(self) -> str:
        return f"ε = {self.epsilon:g} at δ = {self.delta:g} toward {self.toward}"

    @property
    def toward(self) -> str:
        """Whom it speaks of, in words."""
        article = "an" if self.unit == "example" else "a"
        return f"{OBSERVER[self.against]}, for {article} {self.unit}"


OBSERVER: Mapping[Against, str] = {
    "coordinator": "the coordinator",
    "sites": "the other sites",
    "recipients": "who gets the model",
}


def figure(event: Event | None, delta: float) -> Epsilon | None:
    """Return what ``event`` comes to; None where nothing bounds it.

    That events speak of different neighbours is such a case: no one ε covers them.
    """
    if event is None:
        return None
    try:
        return spent(event, delta)
    except ConfigError:
        return None


def check(ledger: Ledger, asked: Reserved, caps: Mapping[str, Cap]) -> Ledger:
    """Return the ledger with ``asked`` reserved; BudgetError if that breaks a cap of a source."""
    after = step(ledger, asked)
    for source in asked.sources:
        if (cap := caps.get(source)) is not None:
            _check(ledger.without(asked.run), after, asked, source, cap)
    return after


def _check(before: Ledger, after: Ledger, asked: Reserved, source: str, cap: Cap) -> None:
    total = figure(after.spent(source, cap.unit, cap.against), cap.delta)
    if total is not None and total.epsilon <= cap.epsilon:
        return
    alone = figure(step(Ledger(), asked).spent(source, cap.unit, cap.against), cap.delta)
    so_far = figure(before.spent(source, cap.unit, cap.against), cap.delta)
    raise BudgetError(
        f"{source} may spend {cap}; {_said(so_far)} is spent or reserved, {asked.run} asks for "
        f"{_said(alone)}, and both come to {_said(total)}",
        hint="plan fewer rounds or more noise; only the owner of the data can raise its cap",
    )


def _said(found: Epsilon | None) -> str:
    return "no bounded ε" if found is None else f"ε = {found.epsilon:.4g}"
