"""One run under several seeds, each beside what it is measured against, in one folder.

Seeds move everything that chance decides: initial models, splits into training and test data,
batches, cohorts. What is left of a difference between two ways of training when the seed changes is
what the intervals of a summary show.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from safetensors.numpy import load_file  # pyright: ignore -- it has no stubs

from hanse.core.canonical import Json
from hanse.core.layout import Vector
from hanse.errors import ConfigError
from hanse.report.html import write_report
from hanse.report.numerals import Interval, interval
from hanse.sim.baselines import baselines as train_baselines
from hanse.sim.crew import BackendName
from hanse.sim.engine import as_begun
from hanse.sim.files import write_whole
from hanse.sim.output import Folder
from hanse.sim.run import Callback, Run
from hanse.sim.simulate import simulate
from hanse.sim.spending import Budget

KINDS: Final = ("local", "federated", "pooled")
MEAN: Final = "mean"
BASELINES: Final = "baselines.json"
MOST_SEEDS: Final = 1000
_BESIDE = ("examples", "undefined")

Cells = dict[str, dict[str, list[float | None]]]
"""Kind → metric → one value per seed."""


@dataclass(frozen=True)
class Summary:
    """What the seeds of a run came to.

    ``results`` are the result objects of the seeds, in their order. ``table`` holds, per site and
    for their ``mean``, kind (``local``, ``federated``, ``pooled``) → metric → one value per seed,
    None where a metric is not defined; a mean is over the sites where all kinds have a value.
    """

    name: str
    seeds: tuple[int, ...]
    results: tuple[Mapping[str, Json], ...]
    table: Mapping[str, Cells]
    out: Path

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of what was measured, the task's metrics first."""
        measured: dict[str, None] = {}
        for result in self.results:
            pooled: Any = result.get("metrics") or {}
            measured |= dict.fromkeys(name for name in pooled if name not in _BESIDE)
        for cells in self.table.values():
            for values in cells.values():
                measured |= dict.fromkeys(values)
        return tuple(sorted(measured, key=lambda name: name == "loss"))

    def pooled(self, metric: str) -> Interval:
        """Return the metric over all sites' test data together, with its interval over seeds."""
        found: list[Any] = [result.get("metrics") or {} for result in self.results]
        return interval([values.get(metric) for values in found])

    def json(self) -> dict[str, Json]:
        """Return the summary as ``summary.json`` has it."""
        runs: list[Json] = [
            {key: result[key] for key in ("seed", "spec_hash", "model_digest", "out")}
            for result in self.results
        ]
        means = {name: self.pooled(name) for name in self.metrics}
        return {
            "run": self.name,
            "seeds": list(self.seeds),
            "metric names": list(self.metrics),
            "metrics": {name: {"mean": m.mean, "half": m.half} for name, m in means.items()},
            "table": {site: dict(cells) for site, cells in self.table.items()},
            "runs": runs,
            "out": str(self.out),
        }


def repeat(
    run: Run,
    seeds: Iterable[int],
    *,
    out: Path,
    baselines: bool = False,
    workers: int | None = None,
    backend: BackendName | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    budget: Budget | None = None,
) -> Summary:
    """Simulate ``run`` under each seed, one after the other, and write what it leaves to ``out``.

    One seed fills ``out`` itself; several have a folder each inside it, ``seed-7`` and so on, with
    ``summary.json`` above them. With ``baselines``, models are also trained at each site alone and
    on all data pooled. With ``resume``, seeds that have ended are kept and the others go on.

    Raises ConfigError for no seeds, a folder that is taken, and as :func:`simulate` does.
    """
    chosen = tuple(seeds)
    if not 1 <= len(chosen) <= MOST_SEEDS:
        raise ConfigError(f"{len(chosen)} seeds", hint=f"give 1 to {MOST_SEEDS}")
    several = len(chosen) > 1
    if resume and not out.exists():
        raise ConfigError(f"there is no run in {out} to resume", hint="leave out --resume")
    _check_free(out, several=several)
    results, tables = list[Mapping[str, Json]](), list[dict[str, Any]]()
    for seed in chosen:
        folder = out / f"seed-{seed}" if several else out
        one = run if seed == run.seed else run.with_seed(seed)
        waits = several or (baselines and not (folder / BASELINES).exists())
        result = _ended(one, folder) if resume and waits else None
        if result is None:
            done = simulate(
                one,
                workers=workers,
                backend=backend,
                out=folder,
                resume=resume and folder.exists(),
                callbacks=callbacks,
                budget=budget,
            )
            result = done.json()
        results.append(result)
        if run.engine == "auto":  # all seeds by one engine, so that they can be compared
            run = replace(run, engine=str(result["engine"]))  # pyright: ignore[reportArgumentType]
        tables.append(_compared(one, folder, result, baselines=baselines))
    summary = Summary(run.name, chosen, tuple(results), _by_site(tables), out)
    if several:
        _write(out / "summary.json", summary.json())
    write_report(out)
    return summary


def fresh(name: str, parent: Path = Path("runs")) -> Path:
    """Return a folder for a new run, ``runs/<name>-<time>``; it does not exist yet."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, number = parent / stem, 2
    while folder.exists():
        folder, number = parent / f"{stem}-{number}", number + 1
    return folder


def unfinished(name: str, parent: Path = Path("runs")) -> Path:
    """Return the newest folder of a run called ``name`` that has not ended; ConfigError if none."""
    ends = ("result.json", "summary.json")
    found = [
        folder
        for folder in parent.glob(f"{name}-[0-9]*-[0-9]*")
        if folder.is_dir() and not any((folder / end).exists() for end in ends)
    ]
    if not found:
        raise ConfigError(
            f"no run {name} under {parent}/ waits to be resumed",
            hint="name its folder: --out DIR --resume; or leave out --resume",
        )
    return max(found, key=lambda folder: folder.stat().st_mtime_ns)


def _check_free(out: Path, *, several: bool) -> None:
    """Refuse to lay several seeds into the folder of one run, or the other way about."""
    if several and (out / "spec.json").exists():
        raise ConfigError(
            f"{out} holds a run of one seed already", hint="give another --out for several seeds"
        )
    if not several and any(out.glob("seed-*")):
        raise ConfigError(f"{out} holds a run of several seeds", hint="give another --out")


def _ended(run: Run, folder: Path) -> dict[str, Json] | None:
    """Return the result of a seed that has ended; ConfigError if it had other settings."""
    try:
        result = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        return None
    if result.get("spec_hash") != as_begun(run, Folder(folder)).spec.hash:
        raise ConfigError(
            f"{folder} holds a run with other settings or other code",
            hint="resume with the settings and code it was started with, or give another --out",
        )
    return result


def _compared(
    run: Run, folder: Path, result: Mapping[str, Json], *, baselines: bool
) -> dict[str, Any]:
    """Return kind → site → metrics; with ``baselines``, train them unless they are there."""
    path, sites = folder / BASELINES, result.get("sites") or {}
    if not baselines:
        return {"federated": sites}
    if not path.exists():
        trained = train_baselines(run, None if sites else _final(run, folder))
        table = {"federated": sites, **trained}
        _write(path, {kind: table[kind] for kind in KINDS})
    return json.loads(path.read_text())


def _final(run: Run, folder: Path) -> Vector:
    """Return the final model of a run that has ended."""
    tensors: Any = load_file(folder / "model.safetensors")  # pyright: ignore -- it has no stubs
    return run.described[0].pack(tensors)


def _by_site(tables: Sequence[dict[str, Any]]) -> dict[str, Cells]:
    """Turn, per seed, kind → site → metrics into site → kind → metric → values, with means."""
    sites = sorted({site for table in tables for found in table.values() for site in found})
    kinds = [kind for kind in KINDS if any(table.get(kind) for table in tables)]
    metrics = dict.fromkeys(
        name
        for table in tables
        for found in table.values()
        for values in found.values()
        for name in values
        if name not in _BESIDE
    )
    by_site: dict[str, Cells] = {
        site: {
            kind: {m: [_value(table, kind, site, m) for table in tables] for m in metrics}
            for kind in kinds
        }
        for site in sites
    }
    if sites:
        by_site[MEAN] = {kind: {m: _mean(by_site, kind, m) for m in metrics} for kind in kinds}
    return by_site


def _value(table: dict[str, Any], kind: str, site: str, metric: str) -> float | None:
    return table.get(kind, {}).get(site, {}).get(metric)


def _mean(by_site: Mapping[str, Cells], kind: str, metric: str) -> list[float | None]:
    """Return per seed the mean over the sites that have a value of every kind."""
    means = list[float | None]()
    for seed, _ in enumerate(next(iter(by_site.values()))[kind][metric]):
        full = [
            cells[kind][metric][seed]
            for cells in by_site.values()
            if all(other[metric][seed] is not None for other in cells.values())
        ]
        known = [value for value in full if value is not None]
        means.append(sum(known) / len(known) if known else None)
    return means


def _write(path: Path, value: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(value, indent=1).encode())
