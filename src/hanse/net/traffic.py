"""How much goes over a listener: counted since its start, for who watches it."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Traffic:
    """Counts of one listener, on its loop. Bytes are those inside TLS.

    ``received``: all that came, heads of requests too; ``sent``: the bodies of responses;
    ``responses``: status → how many.
    """

    received: int = 0
    sent: int = 0
    responses: Counter[int] = field(default_factory=Counter[int])
