"""The process in which a run's own code executes at a site: it has the data, and no network.

The agent starts one per run and talks to it in JSON over a socket pair; vectors lie in files. It
trains with the simulator's own station, so that a site has the simulator's bits.
"""

import mmap
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hanse.config.specification import Specification, layout_json, read_layout, read_spec
from hanse.core import seeds
from hanse.core.accelerate import WORTH
from hanse.core.frames import model_frame, share_frame
from hanse.core.layout import Vector
from hanse.core.step import Refused
from hanse.core.sums import on_wire
from hanse.core.work import Train
from hanse.errors import ConfigError, HanseError, TaskError, TransportError
from hanse.failpoints import Point, reach
from hanse.names import resolve
from hanse.privacy import secret
from hanse.sim.files import write_whole
from hanse.sim.messages import preserve, quiet, receive, send
from hanse.sim.population import Sites
from hanse.sim.run import check_work
from hanse.sim.station import Station
from hanse.site.kept import ClientMemory, Folder
from hanse.train.local import Task, whose_rows


class Job:
    """One run's code and data at one site, between two messages of the agent."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        """Import the app, check that its task is the spec's, open the data.

        ``told``: ``app``, ``store`` (folders), ``site``, ``sources``, ``spec``, ``layout``, and
        whether the run is ``simulated``: if not, a private one draws from the operating system.
        """
        self.site, self.store = str(told["site"]), Path(told["store"])
        self.read: Specification = read_spec(told["spec"], read_layout(told["layout"]))
        spec, folder = self.read.spec, Path(told["app"])
        if spec.layout.size < WORTH:
            os.environ["HANSE_NUMBA"] = "0"
        task: Task = resolve(spec.task, folder, "task")
        check_task(task, self.read)
        check_work(task, self.read.strategy, spec.local, spec.pipeline)
        self.exactly = ExitStack()
        self.fingerprint = self.exactly.enter_context(task.exactly(spec.local.threads))
        sources = {name: Path(path) for name, path in told["sources"].items()}
        sites = Sites(resolve(spec.data, folder, "data"), [self.site], sources, spec.seed)
        is_secret = spec.bound.facts.keeps_counts and not told["simulated"]
        draw = secret.fresh if is_secret else seeds.stream
        self.station = Station(task.kernel(), sites, spec.bound, spec.seed, draw=draw)
        self.work = Train(spec.local, self.read.strategy.correction)
        self.memory = ClientMemory(self.site, self.station, Folder(self.store))
        data = self.station.data(self.site)[0]
        if spec.local.hides_persons and getattr(data, "persons", None) is None:
            raise whose_rows(self.site)
        self.rows = data.n

    def train(self, round: int, model: Path, announced: Mapping[str, Any], out: Path) -> str:
        """Train, and write the share's frame to ``out``; return why it is refused, or nothing."""
        start = self._vector(model)
        share = self.station.share(start, self.site, self.work, round, announced)
        if isinstance(share, Refused):
            return share.reason
        self.memory.trained(round)
        wired = on_wire(share.vector, share.scale)
        arrays = {"model": wired, "scalars": share.scalars, **share.extras}
        write_whole(out, *share_frame(self.read.spec.bound).parts(arrays), durable=False)
        reach(Point.JOB_SHARE_WRITTEN)
        return ""

    def evaluate(self, round: int, model: Path, out: Path) -> str:
        """Evaluate, and write the counts' frame to ``out``; return why there are none."""
        tally = self.read.spec.tally
        share = self.station.counts(self._vector(model), self.site, round, tally)
        if isinstance(share, Refused):
            return share.reason
        write_whole(out, *share_frame(tally).parts({"scalars": share.scalars}), durable=False)
        return ""

    def _vector(self, path: Path) -> Vector:
        """Return the model in a file: a view of it, since a copy costs more than all else here."""
        with path.open("rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        return model_frame(self.read.spec.layout).unpack(view)["vector"]


def check_task(task: Any, read: Specification) -> None:
    """Raise ConfigError or TaskError unless ``task`` is what the spec was made from."""
    if not (hasattr(task, "describe") and hasattr(task, "kernel")):
        raise ConfigError(f"{read.spec.task} is no task", hint="name a TorchTask")
    layout, _ = task.describe(read.spec.seed)
    if layout_json(layout) != layout_json(read.spec.layout):
        raise TaskError(
            f"{read.spec.task} makes another model here than where the run was submitted",
            hint="look for what its shape depends on: a file, a version, an environment variable",
        )
    names = [scalar.name for scalar in task.training_scalars()]
    metrics = [metric.name for metric in task.metrics]
    if names != [s.name for s in read.spec.training] or metrics != [m.name for m in read.metrics]:
        raise TaskError(
            f"{read.spec.task} reports other numbers here than where the run was submitted",
            hint="look for what its metrics or reports depend on",
        )


def answer(job: Job, told: Mapping[str, Any]) -> dict[str, Any]:
    """Do what one message says."""
    match told["do"]:
        case "settle":
            job.memory.settle(told["counted"])
            return {}
        case "train":
            paths = Path(told["model"]), Path(told["out"])
            return {"refused": job.train(told["round"], paths[0], told["announced"], paths[1])}
        case "evaluate":
            return {"refused": job.evaluate(told["round"], Path(told["model"]), Path(told["out"]))}
        case other:
            raise ValueError(f"a job cannot {other}")


def serve(pipe: Connection) -> None:
    """Answer messages until the agent closes its end. The first one opens the job."""
    job: Job | None = None
    while True:
        told, _ = receive(pipe)
        try:
            if job is None:
                job = Job(told)
                said: dict[str, Any] = {"fingerprint": job.fingerprint, "rows": job.rows}
            else:
                said = answer(job, told)
        except HanseError as error:
            said = {"error": preserve(error)}
        except OSError as error:  # the user's own are TaskErrors by now
            said = {"error": preserve(_of_disk(error))}
        send(pipe, said)


def _of_disk(error: OSError) -> TransportError:
    """Return the error for a file of ours that cannot be written: there may be room later."""
    said = (error.strerror or str(error)).lower()
    return TransportError(
        f"the site's home cannot be written: {said}", hint="make room on the disk"
    )


def main() -> None:
    """Serve on the socket whose number is the only argument."""
    quiet()
    try:
        serve(Connection(int(sys.argv[1])))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
