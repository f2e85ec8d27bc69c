"""The ledger of privacy as a machine without I/O: what runs have spent of a data set.

A run *reserves* all the releases that it plans, before anything is computed; each is *debited* with
the digest of its bytes before the first of them leaves, and *arrives*; what is left when the run
ends is made *void*. From the debit on a release is spent, whatever becomes of it. Entries keep what
was released as events, not as one ε: those of all runs on the same data compose.

Each entry may be said again and changes nothing then. What would be wrong is refused, and changes
nothing either.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Final, Literal, cast

from hanse.core.canonical import Json
from hanse.core.dp_events import Composed, Event, Repeated, event_of, of_a_part
from hanse.core.spec import Against
from hanse.errors import BudgetError, ConfigError

Unit = Literal["client", "person", "example"]
UNITS: Final[tuple[Unit, ...]] = ("client", "person", "example")
"""Coarse before fine: what hides all of a client's data hides each person in it, half as well."""
Tells = Mapping[Against, Mapping[Unit, Event]]
"""Observer → unit → what it is told of one of them; who or what is not in it is told all."""
OBSERVERS: Final[tuple[Against, ...]] = ("coordinator", "sites", "recipients")


@dataclass(frozen=True)
class Reserved:
    """``run`` may make ``releases`` releases from ``sources``.

    ``tells``: what one release tells.
    """

    run: str
    sources: tuple[str, ...]
    releases: int
    tells: Tells

    kind: ClassVar[str] = "reserved"


@dataclass(frozen=True)
class Debited:
    """The bytes of ``digest`` may leave as ``release`` of ``run``, and no others ever."""

    run: str
    release: str
    digest: str

    kind: ClassVar[str] = "debited"


@dataclass(frozen=True)
class Arrived:
    """``release`` of ``run`` was taken."""

    run: str
    release: str

    kind: ClassVar[str] = "arrived"


@dataclass(frozen=True)
class Void:
    """``run`` has ended: what it reserved and has not debited is free again."""

    run: str

    kind: ClassVar[str] = "void"


@dataclass(frozen=True)
class Lost:
    """Entries up to ``seq``, of hash ``hash``, were there and are not: nobody knows what they
    spent.
    """

    seq: int
    hash: str

    kind: ClassVar[str] = "lost"


Entry = Reserved | Debited | Arrived | Void | Lost
KINDS: Final[Mapping[str, type[Entry]]] = {
    kind.kind: kind for kind in (Reserved, Debited, Arrived, Void, Lost)
}


@dataclass(frozen=True, slots=True)
class Account:
    """One run in the ledger: release → digest of what is debited, and which of them arrived."""

    reserved: Reserved
    debits: Mapping[str, str] = field(default_factory=dict[str, str])
    arrived: frozenset[str] = frozenset()
    is_open: bool = True

    @property
    def counted(self) -> int:
        """How many releases count: all that are reserved, and of a run that ended the debits."""
        return self.reserved.releases if self.is_open else len(self.debits)


@dataclass(frozen=True, slots=True)
class Ledger:
    """What all runs have reserved and spent; ``is_incomplete``: entries were lost."""

    accounts: Mapping[str, Account] = field(default_factory=dict[str, Account])
    is_incomplete: bool = False

    def digest_of(self, run: str, release: str) -> str:
        """Return the digest by which a release is debited, or nothing."""
        account = self.accounts.get(run)
        return "" if account is None else account.debits.get(release, "")

    def sources(self) -> tuple[str, ...]:
        """Return every data set that a run has reserved something of, sorted."""
        return tuple(sorted({s for a in self.accounts.values() for s in a.reserved.sources}))

    def without(self, run: str) -> "Ledger":
        """Return the ledger of all other runs."""
        left = {name: account for name, account in self.accounts.items() if name != run}
        return replace(self, accounts=left)

    def spent(self, source: str, unit: Unit, against: Against) -> Event | None:
        """Return what all runs tell an observer of one ``unit`` of ``source``, reservations
        included; None: no noise bounds it.

        What hides a coarser unit hides a part of it as :func:`of_a_part` says. The other way round
        nothing is known.
        """
        found = Counter[Event]()
        if self.is_incomplete:
            return None
        for account in self.accounts.values():
            reserved = account.reserved
            if source not in reserved.sources or not account.counted:
                continue
            told = told_of(reserved.tells.get(against, {}), unit)
            if told is None:
                return None
            found[told] += account.counted
        return Composed(tuple(Repeated(event, count) for event, count in found.items()))


def told_of(by_unit: Mapping[Unit, Event], unit: Unit) -> Event | None:
    """Return what is told of one ``unit``, by its own noise or else that of a coarser one."""
    if unit in by_unit:
        return by_unit[unit]
    coarser = reversed(UNITS[: UNITS.index(unit)])
    return next((of_a_part(by_unit[one]) for one in coarser if one in by_unit), None)


def step(ledger: Ledger, entry: Entry) -> Ledger:
    """Return the ledger after ``entry``: itself if that was known. BudgetError for a wrong one.

    Whether a reservation fits a cap is for who knows the cap (:mod:`hanse.privacy.budget`).
    """
    if isinstance(entry, Lost):
        return ledger if ledger.is_incomplete else replace(ledger, is_incomplete=True)
    account = ledger.accounts.get(entry.run)
    if isinstance(entry, Reserved):
        after = _reserved(account, entry)
    elif account is None:
        if isinstance(entry, Void):
            return ledger
        raise BudgetError(
            f"{entry.run} has reserved nothing in the privacy ledger",
            hint="a run reserves when it is accepted",
        )
    else:
        after = _after(account, entry)
    if after is account:
        return ledger
    return replace(ledger, accounts={**ledger.accounts, entry.run: after})


def _reserved(account: Account | None, entry: Reserved) -> Account:
    if account is None:
        return Account(entry)
    if account.reserved != entry:
        raise BudgetError(
            f"{entry.run} has reserved {account.reserved.releases} releases of "
            f"{', '.join(account.reserved.sources)}, and asks for something else now",
            hint="a run spends what it reserved at first: submit another run",
        )
    return account if account.is_open else replace(account, is_open=True)


def _after(account: Account, entry: Debited | Arrived | Void) -> Account:
    match entry:
        case Debited():
            return _debited(account, entry)
        case Arrived():
            if entry.release not in account.debits:
                raise BudgetError(f"{entry.run}/{entry.release} arrived, and never was debited")
            if entry.release in account.arrived:
                return account
            return replace(account, arrived=account.arrived | {entry.release})
        case Void():
            return replace(account, is_open=False) if account.is_open else account


def _debited(account: Account, entry: Debited) -> Account:
    known, name = account.debits.get(entry.release), f"{entry.run}/{entry.release}"
    if known == entry.digest:
        return account
    if known is not None:
        raise BudgetError(
            f"{name} is debited as {known[:16]}, so {entry.digest[:16]} may not leave as it",
            hint="noise is drawn once: what was debited and is lost is not made again",
        )
    if not account.is_open or len(account.debits) >= account.reserved.releases:
        raise BudgetError(
            f"{name} would be release {len(account.debits) + 1} of a run that has "
            f"{account.counted} in the privacy ledger",
            hint="plan as many rounds as the run needs, and submit it again",
        )
    return replace(account, debits={**account.debits, entry.release: entry.digest})


def body_of(entry: Entry) -> dict[str, Json]:
    """Return an entry as JSON, without its kind; :func:`entry_of` reads it back."""
    told: dict[str, Any] = {f.name: getattr(entry, f.name) for f in fields(entry)}
    if isinstance(entry, Reserved):
        told["sources"] = list(entry.sources)
        told["tells"] = {
            observer: {unit: event.json() for unit, event in by_unit.items()}
            for observer, by_unit in entry.tells.items()
        }
    return told


def entry_of(kind: str, body: Mapping[str, Any]) -> Entry:
    """Return the entry that JSON says; ConfigError for what is none."""
    try:
        made = KINDS[kind]
        told = dict(body)
        if made is Reserved:
            told["sources"] = tuple(told["sources"])
            told["tells"] = dict(_events(told["tells"]))
        entry = made(**told)
        _check(entry)
        return entry
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{kind!r:.40} with {', '.join(body):.80} is no entry of a privacy ledger",
            hint="this version may be too old for it",
        ) from error


def _events(told: Mapping[str, Any]) -> Iterator[tuple[Against, dict[Unit, Event]]]:
    for observer, by_unit in told.items():
        if observer not in OBSERVERS or not {*by_unit} <= {*UNITS}:
            raise ValueError(observer)
        yield observer, {unit: event_of(event) for unit, event in by_unit.items()}


def _check(entry: Entry) -> None:
    texts = tuple(getattr(entry, f.name) for f in fields(entry))
    if isinstance(entry, Reserved):
        names = cast("tuple[object, ...]", (entry.run, *entry.sources))
        is_sound = type(entry.releases) is int and entry.releases >= 0
    elif isinstance(entry, Lost):
        names, is_sound = (entry.hash,), type(entry.seq) is int and entry.seq >= 0
    else:
        names, is_sound = texts, True
    if not is_sound or not all(isinstance(name, str) for name in names):
        raise ValueError(entry)
