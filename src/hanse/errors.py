"""Every deliberate error of Hanse, on one page, sorted by who must act.

Text says what happened, with the values; ``hint`` says what to do. ``code`` is stable: it is the
exit message of the command line, the problem type on the wire, the heading in ``docs/errors.md``.
"""


class HanseError(Exception):
    """Root of the tree; never raised itself."""

    code = "error"
    exit_status = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(HanseError):
    """A run file, an option or an argument that cannot be meant. The operator acts."""

    code = "config"
    exit_status = 2


class PipelineError(HanseError):
    """Steps that cannot work together. The author acts; raised before anything runs."""

    code = "pipeline"
    exit_status = 3


class TaskError(HanseError):
    """The author's code raised, or returned what it must not. Names site, round and phase."""

    code = "task"
    exit_status = 4

    def __init__(
        self, message: str, *, hint: str = "", site: str = "", round: int = 0, phase: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.site, self.round, self.phase = site, round, phase


class DataError(HanseError):
    """Data that is missing, empty, or of the wrong kind. The data owner acts."""

    code = "data"
    exit_status = 5


class ProtocolError(HanseError):
    """A peer broke the protocol: its message is dropped, the round lives."""

    code = "protocol"
    exit_status = 6


class BudgetError(HanseError):
    """The privacy ledger is full: nothing more may leave."""

    code = "budget"
    exit_status = 7


class TransportError(HanseError):
    """The network or a worker failed: try again."""

    code = "transport"
    exit_status = 75


class HanseWarning(UserWarning):
    """Something went wrong and was put right: nobody needs to act."""
