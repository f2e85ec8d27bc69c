"""Bridges to other people's boards: TensorBoard and MLflow, each behind an extra.

Pass them as ``hanse.simulate(..., callbacks=[TensorBoard("logs")])``. They write what the history
holds (metrics, losses, norms, counts), and no data. MLflow's own telemetry is switched off.
"""

import math
import os
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hanse.core.canonical import Json
from hanse.errors import ConfigError
from hanse.report.folder import Evaluated, Round, history_of
from hanse.report.settings import flat

if TYPE_CHECKING:
    from mlflow import MlflowClient

MOST_SITES = 50  # sites beyond these are left out of a board, which draws a curve for each
_LONGEST_VALUE = 500


class Spec(Protocol):
    """What a callback reads of a RunSpec."""

    @property
    def name(self) -> str:
        """The run's name."""
        ...

    @property
    def hash(self) -> str:
        """Its SHA-256."""
        ...

    def json(self) -> Mapping[str, Json]:
        """Return the spec as it is stored."""
        ...


class _Writer(Protocol):
    """What is used of ``tensorboard.summary.Writer``, which has no types."""

    def add_scalar(self, tag: str, data: float, step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Writes scalars for TensorBoard below ``logdir``, into ``seed-7`` and so on.

    Needs ``pip install "hanse[tensorboard]"``; raises ConfigError without. Give each run a
    ``logdir`` of its own, or its curves continue those that are there.
    """

    def __init__(self, logdir: str | Path) -> None:
        """Find the package, so that its absence shows before a run, not after."""
        if find_spec("tensorboard") is None:
            raise _lacking("tensorboard")
        self.logdir = Path(logdir)
        self._writer: _Writer | None = None

    def on_start(self, run: object, spec: Spec) -> None:
        """Open the log of a seed."""
        self.on_end(None)
        folder = self.logdir / f"seed-{spec.json().get('seed', 0)}"
        self._writer = import_module("tensorboard.summary").Writer(str(folder))

    def on_round(self, row: Mapping[str, object]) -> None:
        """Write the numbers of a round."""
        if self._writer is not None:
            for name, value in scalars(row):
                self._writer.add_scalar(name, value, step=_number(row))

    def on_end(self, result: object) -> None:
        """Close the log."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class MLflow:
    """Logs a run to an MLflow ``experiment``; needs ``pip install "hanse[mlflow]"``.

    ``uri`` names the tracking store: by default ``MLFLOW_TRACKING_URI``, or else the folder
    ``mlruns``. Settings become parameters, the numbers of each round metrics, spec hash and model
    digest tags. Raises ConfigError if the package is missing or the store cannot be used.
    """

    def __init__(self, experiment: str = "hanse", *, uri: str | None = None) -> None:
        """Find the package and open the store."""
        default = os.environ.get("MLFLOW_TRACKING_URI") or Path("mlruns").resolve().as_uri()
        self._client, self._experiment = _mlflow(uri or default, experiment)
        self._run = ""

    def on_start(self, run: object, spec: Spec) -> None:
        """Start a run with the settings as its parameters."""
        from mlflow.entities import Param, RunTag

        started = self._client.create_run(self._experiment, run_name=spec.name)
        self._run = started.info.run_id
        known = {k: v for k, v in flat(spec.json()).items() if not k.startswith("clients.ids")}
        params = [Param(key, value[:_LONGEST_VALUE]) for key, value in known.items()]
        self._client.log_batch(
            self._run, params=params[:100], tags=[RunTag("hanse.spec_hash", spec.hash)]
        )

    def on_round(self, row: Mapping[str, object]) -> None:
        """Log the numbers of a round."""
        from mlflow.entities import Metric

        number, now = _number(row), time.time_ns() // 1_000_000
        metrics = [Metric(name, value, now, number) for name, value in scalars(row)]
        self._client.log_batch(self._run, metrics=metrics)

    def on_end(self, result: object) -> None:
        """Tag the run with its model's digest and end it."""
        digest = getattr(result, "model_digest", "")
        self._client.set_tag(self._run, "hanse.model_digest", str(digest))
        self._client.set_terminated(self._run)


def scalars(row: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    """Return the numbers of a row of the history, by names such as ``pooled/auc``; no n/a."""
    told = history_of([row])[0]
    named = [*_of_round(told), *_of_evaluation("pooled", told.pooled)]
    named += _of_evaluation("central", told.central)
    for site, found in list(told.sites.items())[:MOST_SITES]:
        named += _of_evaluation(f"sites/{_plain(site)}", found)
    for name, value in named:
        if value is not None and math.isfinite(value):
            yield name, value


def _of_round(row: Round) -> list[tuple[str, float | None]]:
    return [
        ("train/loss", row.loss),
        ("update/norm", row.norm),
        ("update/longest", row.longest),
        ("update/clipped", row.clipped),
        ("reports/counted", float(len(row.counted))),
        ("reports/refused", float(len(row.refused))),
        ("reports/dropped", float(len(row.dropped))),
        ("reports/late", float(len(row.late))),
        ("bytes/up", row.up),
        ("bytes/down", row.down),
    ]


def _of_evaluation(name: str, found: Evaluated | None) -> list[tuple[str, float | None]]:
    return [(f"{name}/{m}", value) for m, value in found.values.items()] if found else []


def _plain(site: str) -> str:
    """Return a site's name in the characters that every board takes."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_. ") else "_" for c in site)


def _number(row: Mapping[str, object]) -> int:
    return history_of([row])[0].number


def _mlflow(uri: str, experiment: str) -> tuple["MlflowClient", str]:
    """Return a client and the id of the experiment, which is made if it is not there."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported
    if uri.startswith("file:"):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    if find_spec("mlflow") is None:
        raise _lacking("mlflow")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri=uri)
        known = client.get_experiment_by_name(experiment)
        return client, known.experiment_id if known else client.create_experiment(experiment)
    except (MlflowException, ImportError) as error:
        raise ConfigError(
            f"MLflow cannot use the store {uri}: {_first(error)}",
            hint='give a folder, uri="file:///path/to/mlruns"; other stores may need all of mlflow',
        ) from error


def _lacking(extra: str) -> ConfigError:
    return ConfigError(f"{extra} is not installed", hint=f'pip install "hanse[{extra}]"')


def _first(error: Exception) -> str:
    """Return the first sentence of a long message."""
    return str(error).strip().splitlines()[0].split(". ")[0].rstrip(".")
