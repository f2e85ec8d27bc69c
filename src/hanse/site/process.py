"""The agent's end of a job: a process of its own, so that no app can take the agent down."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hanse.errors import TaskError
from hanse.sim.messages import receive, revive, send

HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""Large arrays in huge pages: a third of what a fresh one costs (malloc of glibc 2.35 or later)."""


class JobDied(TaskError):
    """The job's process has ended without an answer, by itself or by somebody's hand."""


class JobProcess:
    """A started job. What it prints goes to ``log``, which stays at the site."""

    def __init__(self, log: Path) -> None:
        """Start the process; it waits for its first message."""
        ours, theirs = socket.socketpair()
        with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hanse.site.job", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={"GLIBC_TUNABLES": HUGE_PAGES, **os.environ},
            )
        theirs.close()
        self.pipe = Connection(ours.detach())

    def ask(self, message: Mapping[str, Any], within_s: float) -> dict[str, Any]:
        """Send a message, return the answer; raise the error that the job met.

        JobDied if the process is gone: it may have run out of memory. TaskError if there is no
        answer ``within_s`` seconds: then the process is ended.
        """
        try:
            send(self.pipe, message)
            if not self.pipe.poll(within_s):
                self.kill()
                raise TaskError(
                    f"the run's app had no answer within {within_s:g} s, and was ended",
                    hint="see its output log; the policy's longest_training_s is the limit",
                    phase="training",
                )
            answer, _ = receive(self.pipe)
        except (EOFError, OSError) as error:
            status = self.process.wait()
            raise JobDied(
                f"the process of the run's app ended with status {status}",
                hint="see its output log; -9 is often a lack of memory",
                phase="training",
            ) from error
        if "error" in answer:
            raise revive(answer["error"])
        return answer

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def close(self) -> None:
        """End the process."""
        self.pipe.close()
        try:
            self.process.wait(2.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def kill(self) -> None:
        """End the process at once; who waits for its answer gets a TaskError."""
        self.process.kill()
