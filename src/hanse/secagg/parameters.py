"""How many must be there, and how many may be against the others (docs/protocol.md §11.2).

Thresholds of Bonawitz et al. (CCS 2017, §6.2): with n clients of whom c collude with a malicious
coordinator, t > (n + c)/2 shares for a secret. Each honest client gives one kind of share of a
client's and the colluding both, so both kinds need 2(t − c) ≤ n − c; two sets of survivors of q ≥ t
signatures each have more than c clients in common, of whom one is honest and signs once.
"""

from dataclasses import dataclass
from typing import Final, Literal, Self

from hanse.core.canonical import Json
from hanse.errors import ConfigError
from hanse.secagg import words
from hanse.secagg.ring import Segment

Mode = Literal["malicious", "curious"]
FEWEST: Final = 3
MOST: Final = 1000
"""Clients of a complete graph: each has a key with each other."""
HONEST: Final = 3
"""Honest clients that a sum is of, at least; two, where somebody says so."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """Of ``clients`` n, up to ``corrupt`` c collude with the coordinator. ``threshold`` t: shares
    that give a secret; ``quorum`` q: signatures that settle who is summed; ``minimum`` m: clients
    in a sum. ``honest``: how many of them are sure to be so, at least.

    ``mode``: against a coordinator that may do anything (``malicious``), or one that follows the
    protocol and looks on (``curious``, q = 0). ConfigError for numbers that promise nothing.
    """

    clients: int
    corrupt: int
    threshold: int
    quorum: int
    minimum: int
    honest: int = HONEST
    mode: Mode = "malicious"

    @classmethod
    def chosen(
        cls, clients: int, corrupt: int | None = None, *, mode: Mode = "malicious",
        honest: int | None = None,
    ) -> Self:  # fmt: skip
        """Return parameters that lose as few drop-outs as they can.

        ``corrupt`` is a third by default, and never silently none; ``honest`` is 3, or as many as
        there are.
        """
        c = (clients - 1) // 3 if corrupt is None else corrupt
        if corrupt is None and c == 0:
            raise ConfigError(
                f"{clients} clients are too few to say how many of them may collude",
                hint="give corrupt = 1, with which none may drop out; or corrupt = 0, which says "
                "that none colludes with the coordinator",
            )
        sure = min(HONEST, clients - c) if honest is None else honest
        malicious = mode == "malicious"
        t = (clients + c) // 2 + 1 if malicious else max(2, c + 1, -(-2 * clients // 3))
        return cls(clients, c, t, t if malicious else 0, max(t, c + sure), sure, mode)

    def __post_init__(self) -> None:
        """Refuse what does not keep what the mode promises."""
        n, c, t, q, m = self.clients, self.corrupt, self.threshold, self.quorum, self.minimum
        wrong = [
            (not FEWEST <= n <= MOST, f"a secure sum is of {FEWEST} to {MOST} clients"),
            (not 0 <= c <= n - 2, f"of {n} clients at most {n - 2} may be corrupt"),
            (not self.honest >= 2, "a sum over one honest client is its vector"),
            (m < c + self.honest, f"the minimum is below {c} + {self.honest}"),
            (not (t <= m <= n), "the minimum is not between the threshold and the clients"),
        ]
        if self.mode == "malicious":
            wrong += [
                (2 * t <= n + c, f"the threshold is not above ({n} + {c})/2"),
                (not t <= q <= n, "the quorum is not between the threshold and the clients"),
            ]
        else:
            wrong += [
                (self.mode != "curious", "there is no such mode"),
                (t <= c or t < 2, f"{c} corrupt clients reach the threshold"),
                (q != 0, "nobody signs in curious mode"),
            ]
        for is_wrong, why in wrong:
            if is_wrong:
                raise ConfigError(
                    f"{self.said()} promises nothing: {why}",
                    hint="give clients and corrupt only, and the rest is found",
                )

    def said(self) -> str:
        """Return the numbers as one writes them."""
        return (
            f"a secure sum with n={self.clients}, c={self.corrupt}, t={self.threshold}, "
            f"q={self.quorum}, m={self.minimum} ({self.mode})"
        )

    @property
    def drop_outs(self) -> int:
        """How many clients a sum survives the loss of."""
        return self.clients - max(self.minimum, self.threshold)

    def json(self) -> dict[str, Json]:
        """Return the parameters as they stand in a guarantee."""
        return {
            "c": self.corrupt, "honest": self.honest, "m": self.minimum, "mode": self.mode,
            "n": self.clients, "q": self.quorum, "t": self.threshold,
        }  # fmt: skip

    def digest(self, segments: tuple[Segment, ...]) -> bytes:
        """Return the digest of all that a client agrees to before it takes part."""
        numbers = (self.clients, self.corrupt, self.threshold, self.quorum, self.minimum)
        told = [words.u16(number) for number in (*numbers, self.honest)]
        for s in segments:
            told += [s.name.encode(), words.u64(s.length), words.u16(s.ring), words.u16(s.wire)]
        return words.digest("policy", b"silo/1", words.u16(1), self.mode.encode(), *told)
