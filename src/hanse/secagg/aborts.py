"""How a secure sum ends without one: codes that are stable (docs/protocol.md §11.9)."""

from collections.abc import Iterable
from typing import Final, Literal, get_args

from hanse.errors import ProtocolError

Code = Literal[
    "E_POLICY", "E_ROSTER", "E_BAD_KEY", "E_SIG", "E_DEC", "E_REPLAY", "E_CTX", "E_SMALL",
    "E_EXCLUDED", "E_SET_CHANGED", "E_QUORUM", "E_INPUT", "E_SHARE", "E_PROTO",
]  # fmt: skip
CODES: Final = frozenset(get_args(Code))


class SumAborted(ProtocolError):
    """A secure sum, or an attempt at one, is over. ``abort`` says why; ``blamed``: by numbers, who
    is shown to have caused it. The text tells nothing that depends on a secret.
    """

    def __init__(self, abort: Code, message: str, blamed: Iterable[int] = ()) -> None:
        super().__init__(f"{abort}: {message}")
        self.abort: Code = abort
        self.blamed = tuple(sorted(blamed))
