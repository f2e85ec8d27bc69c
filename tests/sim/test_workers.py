"""Worker processes: what happens to them, and what becomes of what happens in them."""

import multiprocessing
import os
import signal
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.sim.test_resume import StopAfter, gone, numbers, rows, shared
from tests.train.models import FEATURES, binary, federation, table, tabular
from torch import nn

import hanse
from hanse import ConfigError, LocalTraining
from hanse.errors import DataError, HanseWarning, TaskError, TransportError
from hanse.sim.crew import even
from hanse.train.torch import TorchTask

DATA = federation(clients=4)
HERE = os.getpid()


def children() -> set[int]:
    """Processes that this one has started and that still run."""
    return {process.pid for process in multiprocessing.active_children()}


@pytest.fixture(autouse=True)
def nothing_left():
    """Every test of this page ends without a process and without a file of shared memory."""
    before = children(), shared()
    yield
    assert children() == before[0]
    assert gone(before[1])


class Doing(nn.Linear):
    """Does something while it trains in a worker process, at the marked client (whose x is 7)."""

    def __init__(self, deed) -> None:
        super().__init__(FEATURES, 1)
        self.deed = deed

    def forward(self, x):
        if self.training and os.getpid() != HERE and bool((x == 7).all()):
            self.deed()
        return super().forward(x)


def marked(site: str = "site-1") -> dict:
    (x, y), test = DATA[site]
    return {**DATA, site: ((x * 0 + 7, y), test)}


def doing(deed) -> TorchTask:
    return binary(partial(Doing, deed))


def stop() -> None:
    raise ZeroDivisionError("of the user's making")


class KillIn(StopAfter):
    """Kills a worker process when a round has ended."""

    def on_round(self, row) -> None:
        if row["round"] == self.round:
            os.kill(min(children()), signal.SIGKILL)


def once(folder: Path, deed):
    """Return what does a deed the first time in all processes that it is asked to."""

    def first() -> None:
        with suppress(FileExistsError):
            (folder / "done").touch(exist_ok=False)
            deed()

    return first


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("deed", [die, partial(os._exit, 3)], ids=["killed", "leaves"])
def test_a_worker_that_dies_in_mid_round_changes_nothing(tmp_path, deed):
    task = doing(once(tmp_path, deed))
    settings = {"rounds": 3, "quorum": hanse.Quorum(minimum=1)}
    wanted = hanse.simulate(task, marked(), **settings)
    with pytest.warns(HanseWarning, match=r"worker process \d+ ended with status (-9|3)"):
        found = hanse.simulate(task, marked(), workers=2, **settings)
    assert (tmp_path / "done").exists()
    assert found.model_digest == wanted.model_digest
    for row, other in zip(found.history, wanted.history, strict=True):
        assert {**row, "seconds": 0} == {**other, "seconds": 0}


def test_what_it_had_trained_in_an_earlier_wave_is_trained_again(tmp_path):
    """Corrupt updates make the round ask more clients: a second wave over the same workers."""
    task, data = doing(once(tmp_path, die)), marked("site-3")
    settings = {
        "rounds": 4,
        "strategy": hanse.fedavg(sampler=hanse.FixedSize(2)),
        "quorum": hanse.Quorum(over_selection=2.0, minimum=1),
        "faults": hanse.Faults(corrupt=0.4, delay_s=1.0),
    }
    wanted = hanse.simulate(task, data, **settings)
    with pytest.warns(HanseWarning, match="ended with status -9"):
        found = hanse.simulate(task, data, workers=2, **settings)
    assert found.model_digest == wanted.model_digest


@pytest.mark.parametrize("engine", ["exact", "batched"])
def test_a_worker_that_is_killed_between_rounds_changes_nothing(engine):
    settings = {"rounds": 4, "engine": engine}
    with pytest.warns(HanseWarning, match="ended with status -9"):
        found = hanse.simulate(binary(), DATA, workers=2, callbacks=[KillIn(2)], **settings)
    assert found.model_digest == hanse.simulate(binary(), DATA, **settings).model_digest


def test_a_spawned_worker_that_is_killed_is_spawned_again(tmp_path):
    run_file = tmp_path / "run.toml"
    (tmp_path / "app.py").write_text(
        "from tests.train.models import binary\n"
        "from tests.sim.test_workers import DATA\n"
        "task = binary()\n"
        "def data(site):\n    return DATA[site.id]\n"
    )
    run_file.write_text(
        f'task = "app:task"\ndata = "app:data"\nsites = {sorted(DATA)}\nrounds = 2\n'
    )
    with pytest.warns(HanseWarning, match="ended with status -9"):
        found = hanse.simulate(run_file, workers=2, backend="spawn", callbacks=[KillIn(1)])
    assert found.model_digest == hanse.simulate(run_file).model_digest


@pytest.mark.filterwarnings("ignore:worker process")
@pytest.mark.parametrize("workers", [2, 4])
def test_workers_that_die_of_a_client_again_and_again_end_the_run(workers):
    began = time.monotonic()
    with pytest.raises(TransportError, match=r"worker process \d+ ended with status -9") as caught:
        hanse.simulate(doing(die), marked(), rounds=2, workers=workers)
    assert "--resume" in caught.value.hint
    assert time.monotonic() - began < 30


class Kept(nn.BatchNorm1d):
    """Keeps its running mean at the client."""

    def __init__(self, deed) -> None:
        super().__init__(FEATURES)
        self.inner, self.deed, self.turns = Doing(deed), deed, 0

    def forward(self, x):
        return self.inner(x) if bool((x == 7).all()) else self.inner(super().forward(x))


def keeping(deed=int) -> TorchTask:
    return TorchTask(model=partial(Kept, deed), loss=nn.BCEWithLogitsLoss(), buffers="local")


class Seen(KillIn):
    """Notes what it is told, and kills a worker once."""

    def __init__(self, *rounds: int) -> None:
        super().__init__(0)
        self.deaths, self.told = set(rounds), list[int | str]()

    def on_start(self, run, spec) -> None:
        self.told.append("start")

    def on_round(self, row) -> None:
        self.told.append(row["round"])
        if row["round"] in self.deaths:
            os.kill(min(children()), signal.SIGKILL)


@pytest.mark.parametrize(("every_s", "back"), [(0, 2), (1e9, 0), (None, 0)])
def test_with_a_worker_goes_what_its_clients_keep_and_the_run_goes_back_for_it(
    tmp_path, every_s, back
):
    """To its last checkpoint; where there is none, to its start. Nobody hears of a round twice."""
    seen, wanted = Seen(3), hanse.simulate(keeping(), DATA, rounds=6)
    where = {} if every_s is None else {"out": tmp_path / "run", "checkpoint_s": every_s}
    with pytest.warns(HanseWarning, match=f"status -9; back to round {back}"):
        found = hanse.simulate(keeping(), DATA, rounds=6, workers=2, callbacks=[seen], **where)
    assert (found.model_digest, rows(found)) == (wanted.model_digest, rows(wanted))
    assert seen.told == ["start", 1, 2, 3, 4, 5, 6]
    if where:
        assert numbers(where["out"]) == [1, 2, 3, 4, 5, 6]


def test_a_worker_that_dies_in_mid_round_of_what_clients_keep_changes_nothing(tmp_path):
    wanted = hanse.simulate(keeping(), marked(), rounds=3)
    with pytest.warns(HanseWarning, match="status -9; back to round"):
        found = hanse.simulate(keeping(once(tmp_path, die)), marked(), rounds=3, workers=2)
    assert found.model_digest == wanted.model_digest


def test_a_run_goes_back_so_often_and_no_more():
    """A worker dies after each of the first rounds that are new."""
    with (
        pytest.warns(HanseWarning, match="back to round 0"),
        pytest.raises(TransportError, match="ended with status -9"),
    ):
        hanse.simulate(keeping(), DATA, rounds=6, workers=2, callbacks=[Seen(1, 2, 3, 4)])


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_users_code_reaches_the_user_from_any_process(workers):
    task = binary(partial(Doing, stop)) if workers > 1 else binary(partial(Here, stop))
    with pytest.raises(TaskError, match="training at site-1, round 1: ZeroDivisionError") as caught:
        hanse.simulate(task, marked(), rounds=2, workers=workers)
    error = caught.value
    assert (error.site, error.round, error.phase) == ("site-1", 1, "training")
    assert __file__ in error.hint
    assert error.code == "task"


class Here(Doing):
    def forward(self, x):
        if self.training and bool((x == 7).all()):
            self.deed()
        return nn.Linear.forward(self, x)


def test_bad_data_reaches_the_user_from_any_process():
    x, y = DATA["site-2"][0]
    data = {**DATA, "site-2": ((x * float("nan"), y), None)}
    for workers in (1, 2):
        with pytest.raises(DataError, match="site-2: the input is nan in row 0, column 0") as e:
            hanse.simulate(binary(), data, rounds=2, workers=workers)
        assert e.value.hint


def test_workers_end_when_a_callback_stops_the_run():
    with pytest.raises(KeyboardInterrupt):
        hanse.simulate(binary(), DATA, workers=2, callbacks=[StopAfter(2, KeyboardInterrupt)])


def test_an_interrupt_between_rounds_leaves_a_checkpoint(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        hanse.simulate(
            binary(), DATA, workers=2, out=tmp_path, callbacks=[StopAfter(2, KeyboardInterrupt)]
        )
    assert (tmp_path / "checkpoint.safetensors").exists()
    resumed = hanse.simulate(binary(), DATA, workers=2, out=tmp_path, resume=True)
    plain = hanse.simulate(binary(), DATA)
    assert (resumed.model_digest, rows(resumed)) == (plain.model_digest, rows(plain))


class Slow(nn.Linear):
    """Takes its time in round 3, when the weights have moved for the second time."""

    def __init__(self) -> None:
        super().__init__(FEATURES, 1)
        self.turns = 0

    def forward(self, x):
        self.turns += self.training
        if os.getpid() != HERE and self.training and self.turns == 5:
            time.sleep(1.5)
        return super().forward(x)


def test_an_interrupt_while_workers_train_leaves_a_checkpoint_of_the_round_before(tmp_path):
    """The workers' answers to what was interrupted are not taken for anything else."""
    task = binary(Slow)
    plain = hanse.simulate(task, DATA, rounds=4)
    timer = threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it

    class Interrupt(StopAfter):
        def on_round(self, row) -> None:
            if row["round"] == 2:
                timer.start()

    try:
        with pytest.raises(KeyboardInterrupt):
            hanse.simulate(task, DATA, rounds=4, workers=2, out=tmp_path, callbacks=[Interrupt(2)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert numbers(tmp_path) == [1, 2]
    assert (tmp_path / "checkpoint.safetensors").exists()
    resumed = hanse.simulate(task, DATA, rounds=4, out=tmp_path, resume=True)
    assert (resumed.model_digest, rows(resumed)) == (plain.model_digest, rows(plain))


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_are_refused(workers):
    with pytest.raises(ConfigError, match=f"workers = {workers}") as caught:
        hanse.simulate(binary(), DATA, workers=workers)
    assert caught.value.hint


def test_no_more_workers_are_started_than_there_are_clients():
    seen = []

    class Count(StopAfter):
        def on_start(self, run, spec) -> None:
            seen.append(len(children()))

    hanse.simulate(binary(), DATA, rounds=1, workers=64, callbacks=[Count(0)])
    assert seen == [len(DATA)]


@pytest.mark.parametrize("backend", ["fork", None])
def test_two_threads_in_a_forked_worker_are_refused(backend):
    """A pool of threads does not survive a fork: the worker would wait for them forever."""
    with pytest.raises(ConfigError, match=r"threads|spawned") as caught:
        hanse.simulate(binary(), DATA, local=LocalTraining(threads=2), workers=2, backend=backend)
    assert "one" in str(caught.value) + caught.value.hint


def test_one_thread_per_client_works_after_this_process_has_used_more():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.randn(600, 600) @ torch.randn(600, 600)
    runs = [hanse.simulate(binary(), DATA, rounds=1, workers=workers) for workers in (2, 1)]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    assert runs[0].model_digest == runs[1].model_digest


class Elsewhere(TorchTask):
    """One of its worker processes computes other bits: the first that gets hold of ``place``."""

    place: Path

    @contextmanager
    def exactly(self, threads: int):
        with super().exactly(threads) as fingerprint:
            yield fingerprint + ("" if os.getpid() == HERE or self.taken() else "?")

    def taken(self) -> bool:
        try:
            return bool(os.close(os.open(self.place, os.O_CREAT | os.O_EXCL)))
        except FileExistsError:
            return True


@pytest.mark.parametrize("workers", [2, 3])
def test_one_worker_that_computes_other_bits_is_refused_before_the_first_round(workers, tmp_path):
    task = Elsewhere(model=tabular, loss=nn.BCEWithLogitsLoss())
    task.place = tmp_path / "taken"
    seen = StopAfter(1)
    with pytest.raises(ConfigError, match="other bits than this one") as caught:
        hanse.simulate(task, DATA, workers=workers, callbacks=[seen])
    assert "MKL_CBWR" in caught.value.hint
    assert task.place.exists()


def test_data_functions_run_at_the_worker_that_trains_the_client():
    def data(site):
        x, y = DATA[site.id][0]
        return (x * 0 + os.getpid() % 1000, y), (x, y)

    task = binary(tabular)
    one, two = (hanse.simulate(task, data, list(DATA), rounds=1, workers=w) for w in (1, 2))
    assert one.model_digest != two.model_digest


def test_what_a_worker_prints_does_not_stop_it(capfd):
    hanse.simulate(doing(lambda: print("from a worker")), marked(), rounds=1, workers=2)
    assert "from a worker" in capfd.readouterr().out


# Who trains where


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=40), st.integers(2, 5))
def test_moving_clients_evens_the_work_and_loses_nobody(sizes, workers):
    named = {f"c{k}": size for k, size in enumerate(sizes)}
    shares = {index: [c for k, c in enumerate(named) if k % workers == index]
              for index in range(workers)}  # fmt: skip
    before = max(sum(named[c] for c in ids) for ids in shares.values())
    even(shares, named)
    assert sorted(c for ids in shares.values() for c in ids) == sorted(named)
    loads = [sum(named[c] for c in ids) for ids in shares.values()]
    assert max(loads) <= before + 1e-9
    assert max(loads) <= sum(sizes) / workers + max(sizes)


def test_clients_of_any_size_train_in_any_worker_with_the_same_model():
    sizes = [200, 5, 180, 7, 9, 150, 4, 3]
    data = {f"c{k}": (table(n, k), None) for k, n in enumerate(sizes)}
    wanted = hanse.simulate(binary(), data, rounds=4).model_digest
    for workers in (2, 3):
        assert hanse.simulate(binary(), data, rounds=4, workers=workers).model_digest == wanted
