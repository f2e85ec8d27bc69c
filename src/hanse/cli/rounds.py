"""The rounds of a run as they go by: a live table on a terminal, else one line per evaluation."""

import time
from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.status import Status
from rich.table import Table
from rich.text import Text

from hanse.cli.screen import plain_table
from hanse.core.spec import RunSpec
from hanse.report.folder import Evaluated, Round, history_of
from hanse.report.numerals import duration, measure
from hanse.report.series import shown
from hanse.sim.run import Run

MOST_SITE_COLUMNS = 6
NEXT = "training a model at each site alone, and one on all data pooled"
CHROME = 9
"""Lines of a terminal that are not rows of the table."""


class Progress:
    """What every view knows: the run, its rounds so far, and the time left."""

    def __init__(self, seeds: int, *, baselines: bool = False) -> None:
        self.seeds, self.seed, self.baselines = seeds, 0, baselines
        self.rounds, self.metrics, self.sites = 0, list[str](), list[str]()
        self.seen = list[Round]()
        self.began = time.monotonic()

    def on_start(self, run: Run, spec: RunSpec) -> None:
        """Note what the columns are."""
        self.seed, self.rounds, self.seen = self.seed + 1, run.rounds, []
        self.metrics = [metric.name for metric in run.task.metrics]
        ids = [*spec.clients[: MOST_SITE_COLUMNS + 1]]
        released = spec.evaluation.release in ("per-site", "simulation")
        self.sites = ids if released and len(ids) <= MOST_SITE_COLUMNS else []
        self.began = time.monotonic()
        self.heading = f"{run.name}, seed {run.seed}"
        if self.seeds > 1:
            self.heading += f" ({self.seed} of {self.seeds})"

    def on_round(self, row: Mapping[str, object]) -> None:
        """Note a round."""
        self.seen.extend(history_of([row]))

    def on_end(self, result: object) -> None:
        """Do nothing; views may."""

    @property
    def elapsed(self) -> float:
        """Seconds since the first round began."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds that the rounds to come will take, if they are like the last ten."""
        recent = [row.seconds for row in self.seen[-10:]]
        now = self.seen[-1].number if self.seen else 0
        return sum(recent) / max(len(recent), 1) * (self.rounds - now)

    def cells(self, row: Round) -> dict[str, str]:
        """Return column → text of one round."""
        found = row.pooled or row.central
        cells = {
            "round": f"{row.number}/{self.rounds}",
            "counted": "aborted" if row.aborted else f"{len(row.counted)}/{row.cohort}",
            "train loss": measure(row.loss) if row.loss is not None else "–",
        }
        cells |= {name: _value_of(found, name) for name in self.metrics}
        main = self.metrics[0] if self.metrics else "loss"
        cells |= {site: _value_of(row.sites.get(site), main) for site in self.sites}
        return cells


def _value_of(found: Evaluated | None, metric: str) -> str:
    return measure(found.values.get(metric)) if found else ""


def _is_shown(row: Round) -> bool:
    return bool(row.pooled or row.sites or row.central or row.aborted)


class Lines(Progress):
    """One line per evaluated round, for logs and pipes."""

    def __init__(self, console: Console, seeds: int, *, baselines: bool = False) -> None:
        super().__init__(seeds, baselines=baselines)
        self.console = console

    def on_start(self, run: Run, spec: RunSpec) -> None:
        """Print what is about to run."""
        super().on_start(run, spec)
        self.console.print(self.heading, markup=False)

    def on_round(self, row: Mapping[str, object]) -> None:
        """Print the round, if its model was evaluated, or it was aborted, or is the last."""
        super().on_round(row)
        last = self.seen[-1]
        if not _is_shown(last) and last.number != self.rounds:
            return
        said = [f"{name} {text}" for name, text in self.cells(last).items() if text]
        said.append(f"{duration(self.elapsed)}, {duration(self.left)} left")
        self.console.print("  ".join(said), markup=False, soft_wrap=True)

    def on_end(self, result: object) -> None:
        """Say what comes next."""
        if self.baselines:
            self.console.print(f"{NEXT} …")


class Screen(Progress):
    """A table that grows in place."""

    def __init__(self, console: Console, seeds: int, *, baselines: bool = False) -> None:
        super().__init__(seeds, baselines=baselines)
        self.console = console
        self.live: Live | Status | None = None

    def on_start(self, run: Run, spec: RunSpec) -> None:
        """Show the empty table."""
        self.close()
        super().on_start(run, spec)
        self.live = Live(console=self.console, get_renderable=self.table, refresh_per_second=8)
        self.live.start()

    def on_end(self, result: object) -> None:
        """Leave the table as it is, and say what comes next."""
        self.close()
        if self.baselines:
            self.live = self.console.status(NEXT)
            self.live.start()

    def close(self) -> None:
        """Stop drawing, if something is drawn."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def table(self) -> Table:
        """Return the evaluated rounds that fit, and the one under way."""
        rows = [row for row in self.seen if _is_shown(row)][-max(self.console.height - CHROME, 3) :]
        if self.seen and self.seen[-1] not in rows:
            rows.append(self.seen[-1])
        names = ["round", "counted", "train loss", *self.metrics, *self.sites]
        table = plain_table()
        table.show_header, table.title = True, Text(self.heading, style="bold")
        table.title_justify = table.caption_justify = "left"
        for name in names:
            table.add_column(name, justify="right", style="dim" if name in self.sites else "")
        for row in rows:
            table.add_row(*self.cells(row).values())
        table.caption = self._caption()
        return table

    def _caption(self) -> str:
        main = self.metrics[0] if self.metrics else "loss"
        sites = f"a site's column shows its {shown(main)} · " if self.sites else ""
        if self.seen and self.seen[-1].number == self.rounds:
            return f"{sites}{duration(self.elapsed)}"
        return f"{sites}{duration(self.elapsed)}, {duration(self.left)} left"
