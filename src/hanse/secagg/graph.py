"""Who is masked with whom where clients are many: a ring in which each knows its nearest, and how
many of them that takes (Bell et al., CCS 2020, eprint 2020/704, §3).

Against a coordinator that keeps to the protocol and looks on. Clients stand on a ring in a random
order, and each shares masks and secrets with the k nearest ones: a Harary graph. Up to a part of
them collude with the coordinator, up to another part drop out.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from hanse.errors import ConfigError
from hanse.secagg import words

SECURE: Final = 40
"""Bits: with a probability of 2^-40 the graph or the shares give more than the sum."""
CORRECT: Final = 20
"""Bits: with a probability of 2^-20 somebody's masks cannot be taken off, and the sum aborts."""
MOST: Final = 1_000_000
FEASIBLE: Final = 0.9
ROUNDING: Final = 1e-14


@dataclass(frozen=True, slots=True)
class Degree:
    """Each client has ``neighbours`` k, an even number; ``threshold`` t of k + 1 shares, its own
    with them, give a secret.
    """

    neighbours: int
    threshold: int


def degree_for(clients: int, corrupt: float, dropout: float) -> Degree:
    """Return the least degree for ``clients``, of whom parts of at most ``corrupt`` collude and
    ``dropout`` drop out.

    k is enough if, but for 2^-41, no two gaps of k/2 in a row are all corrupt or gone, which is
    what cuts a ring in two (a union bound over pairs of gaps); and if there is a t such that, but
    for 2^-41 over all clients, fewer than t neighbours are corrupt, and but for 2^-20 at least t
    stay. How many of a client's k are corrupt, or stay, is hypergeometric. ConfigError for parts
    that no degree does for, or for so few clients that each must know each other.
    """
    if not 0 < clients <= MOST or not (corrupt >= 0 and dropout >= 0):
        raise ConfigError(
            f"{clients} clients, {corrupt:g} of them corrupt and {dropout:g} gone, are no cohort",
            hint=f"give 1 to {MOST:,} clients, and parts from 0 to {FEASIBLE:g}",
        )
    if corrupt + dropout > FEASIBLE:
        raise ConfigError(
            f"of clients of whom {corrupt:.0%} collude and {dropout:.0%} drop out, no secure sum "
            "is left",
            hint=f"both together may be {FEASIBLE:.0%} at most",
        )
    bad = math.floor((corrupt + ROUNDING) * clients)
    gone = math.floor((dropout + ROUNDING) * clients)
    stay = math.ceil((1 - dropout - ROUNDING) * clients)
    for k in range(2, clients - 1, 2):
        if _log_cut(clients, k, bad + gone) >= -(SECURE + 1) * math.log(2):
            continue
        # t neighbours or more are corrupt, with a probability of 2^-41 over all clients
        most = _most(clients, bad, k, -(SECURE + 1) * math.log(2) - math.log(clients))
        least = _least(clients, stay, k, -CORRECT * math.log(2) - math.log(clients))
        if most < least:
            return Degree(k, max(most + 1, 2))
    raise ConfigError(
        f"{clients} clients are too few for a graph in which not each knows each other",
        hint="use a complete graph (silo/1), or ask more clients",
    )


def _log_cut(clients: int, k: int, removed: int) -> float:
    """Return ln of a bound on the probability that removing so many cuts the ring in two."""
    if k > removed:
        return -math.inf
    pairs = math.log(clients) + math.log(clients - k - 1) - math.log(2)
    return pairs + _log_choose(clients - k, removed - k) - _log_choose(clients, removed)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _log_terms(clients: int, marked: int, drawn: int) -> list[float]:
    """Return ln P[x of ``drawn`` are ``marked``] of ``clients``, for x from 0 to ``drawn``."""
    whole = _log_choose(clients, drawn)
    return [
        _log_choose(marked, x) + _log_choose(clients - marked, drawn - x) - whole
        if x <= marked and drawn - x <= clients - marked
        else -math.inf
        for x in range(drawn + 1)
    ]


def _most(clients: int, marked: int, drawn: int, log_p: float) -> int:
    """Return the least x with ln P[more than x are marked] ≤ ``log_p``."""
    terms, tail, x = _log_terms(clients, marked, drawn), -math.inf, drawn
    while x > 0 and (longer := _log_add(tail, terms[x])) <= log_p:
        tail, x = longer, x - 1
    return x


def _least(clients: int, marked: int, drawn: int, log_p: float) -> int:
    """Return the largest x with ln P[fewer than x are marked] ≤ ``log_p``."""
    terms, tail, x = _log_terms(clients, marked, drawn), -math.inf, 0
    while x < drawn and (longer := _log_add(tail, terms[x])) <= log_p:
        tail, x = longer, x + 1
    return x


def _log_add(one: float, two: float) -> float:
    larger, smaller = max(one, two), min(one, two)
    return larger if smaller == -math.inf else larger + math.log1p(math.exp(smaller - larger))


def around(clients: int, place: int, neighbours: int) -> Iterator[int]:
    """Yield the places of the ``neighbours`` nearest on a ring of ``clients``, in order."""
    half = neighbours // 2
    yield from sorted((place + step) % clients for step in range(-half, half + 1) if step)


def ring(names: Sequence[str], seed: bytes) -> list[int]:
    """Return the numbers of ``names`` in the order of their places, which ``seed`` draws: by a
    digest of each name.
    """
    keys = [words.digest("graph", seed, name.encode()) for name in names]
    return sorted(range(len(names)), key=keys.__getitem__)
