"""``hanse predict`` and ``hanse export``: what a trained model is good for."""

import csv
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import typer

from hanse.cli.screen import Debug, err
from hanse.core.metrics import Floats
from hanse.data.table import read_csv
from hanse.errors import ConfigError
from hanse.names import resolve
from hanse.sim.trained import Trained, open_trained
from hanse.train.local import Turn
from hanse.train.userland import userland

Folder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
Best = Annotated[bool, typer.Option("--best", help="Take the best model, not the last.")]
Moved = Annotated[
    Path | None, typer.Option("--run-file", metavar="RUN.toml", help="Where the run file is now.")
]
Format = Literal["torchscript", "onnx"]
ENDINGS: dict[str, str] = {"torchscript": "model.pt", "onnx": "model.onnx"}


def predict_command(
    folder: Folder,
    data: Annotated[Path, typer.Argument(metavar="DATA.csv", help="Rows to predict.")],
    best: Best = False,
    target: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write there, not to the screen.")
    ] = None,
    run_file: Moved = None,
    debug: Debug = False,
) -> None:
    """Print what the model of RUN says of each row of DATA.csv, as CSV."""
    trained = open_trained(folder, best=best, run_file=run_file)
    from hanse.train.torch_export import predict

    columns = predict(trained.model, _loss(trained), _inputs(trained, data))
    with _opened(target) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))


def export_command(
    folder: Folder,
    form: Annotated[Format, typer.Option("--format", help="What to write.")],
    best: Best = False,
    target: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Into RUN by default.")
    ] = None,
    run_file: Moved = None,
    debug: Debug = False,
) -> None:
    """Write the model of RUN for other programs. Two rows of data show the shape of its inputs."""
    trained = open_trained(folder, best=best, run_file=run_file)
    from hanse.train.torch_export import export

    path = target or folder / ENDINGS[form]
    export(trained.model, _example(trained), form, path)
    err().print(f"{path} written", markup=False)


def _loss(trained: Trained) -> Any:
    task: Any = trained.run.task
    return task.loss


def _inputs(trained: Trained, data: Path) -> object:
    """Return what the model is fed: by the app's own function, else all columns as numbers."""
    if trained.file.inputs is not None:
        function = resolve(trained.file.inputs, trained.file.folder, "inputs")
        with userland(phase=f"reading {data}"):
            return function(data)
    return _numbers(data)


def _numbers(data: Path) -> Floats:
    import numpy as np

    text = read_csv(data, ())
    return np.column_stack([text.numbers(name) for name in text.cells])


def _example(trained: Trained) -> Any:
    run = trained.run
    client = run.population.ids[0]
    turn = Turn(run.seed, 0, client)
    data: Any = run.task.kernel().prepare(run.population.open(client)[0], turn)
    import torch

    return data.batch(torch.arange(min(2, data.n)))[0]


@contextmanager
def _opened(target: Path | None) -> Generator[IO[str]]:
    if target is None:
        yield sys.stdout
        return
    try:
        with target.open("w", newline="") as file:
            yield file
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"{target} cannot be written: {reason}", hint="name another") from error
