"""Workers on Ray: the same bits as here, though machines and workers are lost in mid-round."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from tests.sim.test_same_bits import CASES, Case
from tests.sim.test_workers import Here, marked, once, stop
from tests.train.models import binary, federation

import hanse
from hanse import ConfigError
from hanse.errors import HanseWarning, TaskError, TransportError
from hanse.sim import on_ray
from hanse.sim.on_ray import gpu_share
from hanse.sim.pool import open_pool
from hanse.sim.simulate import as_run

DATA = federation(clients=4)
HEART = Path(__file__).parents[2] / "examples/healthcare/heart/run.toml"
AGAIN = "another takes its place"


pytestmark = pytest.mark.filterwarnings("ignore:a worker on Ray")


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two machines, as Ray sees it: processes of its own for each."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.add_node(num_cpus=2)
    ray.init(made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


def at_the_mark(deed):
    """A task that does something at the client whose x is 7, in whatever process trains it."""
    return binary(partial(Here, deed))


class Busy:
    """A processor's work for somebody else."""

    def greet(self) -> None: ...


def die() -> None:
    os._exit(3)


@pytest.mark.parametrize(
    ("name", "workers"), [("27-16-1, dropout, fedprox", None), ("cnn, aggregate", 2)]
)
def test_the_model_is_the_one_of_a_run_in_this_process(cluster, name, workers):
    case: Case = CASES[name]
    wanted, found = case.run(), case.run(backend="ray", workers=workers)
    assert found.model_digest == wanted.model_digest
    for row, other in zip(found.history, wanted.history, strict=True):
        assert {**row, "seconds": 0} == {**other, "seconds": 0}


def test_what_clients_keep_between_rounds_stays_with_their_workers(cluster):
    case: Case = CASES["cnn, local"]
    assert case.run(backend="ray", workers=2).model_digest == case.run().model_digest


def test_a_worker_that_dies_in_mid_round_changes_nothing(cluster, tmp_path):
    task = at_the_mark(once(tmp_path, die))
    wanted = hanse.simulate(at_the_mark(int), marked(), rounds=2)
    with pytest.warns(HanseWarning, match=AGAIN):
        found = hanse.simulate(task, marked(), rounds=2, backend="ray", workers=2)
    assert (tmp_path / "done").exists()
    assert found.model_digest == wanted.model_digest


def test_a_machine_that_is_lost_in_mid_run_changes_nothing(cluster):
    """Its workers go to where there is room. Before, others hold the rest of the cluster."""
    others = [ray.remote(num_cpus=1)(Busy).remote() for _ in range(3)]
    ray.get([other.greet.remote() for other in others])
    lost = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()

    class Lose:
        def on_start(self, run, spec) -> None: ...

        def on_round(self, row) -> None:
            if row["round"] == 2:
                for other in others:
                    ray.kill(other)
                theirs = below(lost.all_processes["raylet"][0].process.pid)
                cluster.remove_node(lost, allow_graceful=False)
                assert ended(theirs, 60)

        def on_end(self, result) -> None: ...

    wanted = hanse.simulate(binary(), DATA, rounds=4)
    with pytest.warns(HanseWarning, match=AGAIN):
        found = hanse.simulate(
            binary(), DATA, rounds=4, backend="ray", workers=2, callbacks=[Lose()]
        )
    assert found.model_digest == wanted.model_digest


def test_sums_of_workers_that_die_after_they_have_trained_are_made_again(cluster, monkeypatch):
    """Three workers, of which each sums up the one below it."""
    monkeypatch.setattr(on_ray, "FAN", 1)
    run = as_run(binary(), DATA, None, {})
    clients, start = sorted(DATA), run.described[1]
    with run.task.exactly(1) as fingerprint:
        here = open_pool(run, run.spec, 1, None, fingerprint)
        there = open_pool(run, run.spec, 3, "ray", fingerprint)
        try:
            wanted = here.train(start, clients, 1, {})
            assert there.train(start, clients, 1, {}) == wanted
            first, second = here.take(), there.take()
            assert (first.vector == second.vector).all()
            assert (first.scalars == second.scalars).all()
            assert there.train(start, clients, 2, {}) == here.train(start, clients, 2, {})
            for index in (0, 2):
                ray.kill(there.workers[index].line.actor)
            with pytest.warns(HanseWarning, match=AGAIN):
                second = there.take()
            assert (here.take().vector == second.vector).all()
            assert second.vector.any()
        finally:
            there.close()


def test_a_client_that_kills_its_workers_again_and_again_ends_the_run(cluster):
    with pytest.raises(TransportError, match="a worker on Ray is gone") as caught:
        hanse.simulate(at_the_mark(die), marked(), rounds=2, backend="ray", workers=2)
    assert "--resume" in caught.value.hint


def test_an_error_of_the_users_code_reaches_the_user(cluster):
    with pytest.raises(TaskError, match="training at site-1, round 1: ZeroDivisionError") as caught:
        hanse.simulate(at_the_mark(stop), marked(), rounds=2, backend="ray", workers=2)
    assert "test_workers.py" in caught.value.hint


def test_objects_that_cannot_be_sent_are_refused(cluster):
    door = threading.Lock()
    with pytest.raises(ConfigError, match="cannot be sent to Ray's workers") as caught:
        hanse.simulate(at_the_mark(lambda: door.locked()), DATA, backend="ray")
    assert "run file" in caught.value.hint


def test_gpus_are_shared_out_so_that_every_worker_finds_a_place():
    for gpus in range(1, 9):
        for workers in range(1, 40):
            share = gpu_share(gpus, workers)
            assert gpus * min(int(1 / share + 1e-9), workers) >= workers
    assert gpu_share(0, 4) == 0


def test_a_run_file_is_read_by_each_worker_and_ray_is_started_and_ended_for_it(tmp_path):
    """A whole command, interrupted and resumed; what it leaves is the run of this process."""
    words = [sys.executable, "-m", "hanse", "run", str(HEART), "--backend", "ray", "--quiet"]
    words += ["--rounds", "30", "--workers", "2", "--out", str(tmp_path / "out")]
    alone = {**os.environ, "RAY_ADDRESS": "local"}
    command = subprocess.Popen(
        words, env=alone, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    history, until = tmp_path / "out" / "history.jsonl", time.monotonic() + 60
    while not (history.exists() and history.stat().st_size) and time.monotonic() < until:
        time.sleep(0.02)
    started = below(command.pid)
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=30)
    assert command.returncode == 130, said
    assert "--workers 2 --backend ray" in said.replace("\n", " ")
    assert ended(started, 30)
    subprocess.run([*words, "--resume"], env=alone, check=True, timeout=60)
    wanted = hanse.simulate(HEART, rounds=30)
    told = json.loads((tmp_path / "out" / "result.json").read_text())
    assert told["model_digest"] == wanted.model_digest


def below(pid: int) -> list[int]:
    """All processes below one."""
    found = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*found, *(deeper for one in found for deeper in below(one))]


def ended(pids: list[int], seconds: float) -> bool:
    """Whether all these processes end within ``seconds``."""
    until = time.monotonic() + seconds
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return not alive


def test_without_ray_the_user_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match='backend "ray" needs Ray') as caught:
        hanse.simulate(binary(), DATA, backend="ray")
    assert "hanse[ray]" in caught.value.hint


def test_workers_of_this_machine_do_not_import_ray():
    script = (
        "import sys, hanse\n"
        "from tests.train.models import binary, federation\n"
        "hanse.simulate(binary(), federation(clients=2), rounds=1, workers=2)\n"
        "print('ray' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "False\n", done.stderr
