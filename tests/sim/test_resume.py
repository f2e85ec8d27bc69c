"""A run that is interrupted, however it is, goes on to the bits that it would have had."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.laws.toys import Rounds
from tests.train.models import binary, classes, cnn, federation, images, tabular

import hanse
from hanse import Faults, FixedSize, LocalTraining, Pipeline, Weight
from hanse.errors import ConfigError, TaskError

ROOT = Path(__file__).parents[2]
ROWS, PIXELS = federation(clients=4), federation(images, clients=4)
ROUNDS = 6
MOMENTUM = LocalTraining(lr=0.1, batch_size=8, momentum=0.9)
CASES = {
    "fedavg": {"task": binary(tabular), "data": ROWS},
    "fedadam, dropouts": {
        "task": binary(tabular),
        "data": ROWS,
        "strategy": hanse.fedadam(sampler=FixedSize(3)),
        "faults": Faults(dropout=0.2, corrupt=0.1, delay_s=2.0),
    },
    "local statistics": {
        "task": classes(cnn, buffers="local"),
        "data": PIXELS,
        "strategy": hanse.fedavgm(sampler=FixedSize(2)),
    },
    "aggregated statistics, states of steps": {
        "task": classes(cnn, buffers="aggregate"),
        "data": PIXELS,
        "pipeline": Pipeline([Weight(by="examples", cap=50), Rounds()]),
    },
}


@pytest.fixture(params=CASES)
def case(request) -> dict:
    return {"local": MOMENTUM, "rounds": ROUNDS, "seed": 3, **CASES[request.param]}


class Interrupted(Exception):
    pass


@dataclass
class StopAfter:
    """A callback that raises after a round."""

    round: int
    error: type[BaseException] = Interrupted

    def on_start(self, run, spec) -> None:
        pass

    def on_round(self, row) -> None:
        if row["round"] == self.round:
            raise self.error

    def on_end(self, result) -> None:
        pass


def simulate(case: dict, **more) -> hanse.Result:
    settings = dict(case) | more
    return hanse.simulate(settings.pop("task"), settings.pop("data"), **settings)


def rows(result: hanse.Result) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_stopped_by_a_callback_goes_on_to_the_same_bits(case, workers, tmp_path):
    plain = simulate(case)
    for number in (2, 3):
        with pytest.raises(Interrupted):
            simulate(
                case,
                out=tmp_path,
                resume=number > 2,
                workers=workers,
                callbacks=[StopAfter(number)],
            )
        assert len((tmp_path / "history.jsonl").read_text().splitlines()) == number
    result = simulate(case, out=tmp_path, resume=True, workers=3 - workers)
    assert result.model_digest == plain.model_digest
    assert rows(result) == rows(plain)
    assert [json.loads(line)["round"] for line in open(tmp_path / "history.jsonl")] == [
        *range(1, 7)
    ]


@pytest.mark.parametrize("phase", ["train", "evaluate"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_stopped_in_mid_round_goes_on_to_the_same_bits(case, phase, workers, tmp_path):
    """In training before anything is committed, in evaluation after it."""
    plain = simulate(case)
    task, original = case["task"], case["task"].kernel

    def failing():
        kernel = original()
        inner = getattr(kernel, phase)

        def fails(*arguments):
            turn = next(a for a in arguments if hasattr(a, "client"))
            if turn.round == 4 and turn.client == sorted(case["data"])[-1]:
                raise TaskError("the power is gone", site=turn.client)
            return inner(*arguments)

        setattr(kernel, phase, fails)
        return kernel

    task.kernel = failing
    try:
        with pytest.raises(TaskError, match="the power is gone"):
            simulate(case, out=tmp_path, workers=workers, checkpoint_s=0.0)
    except BaseException:
        counted = [site for row in plain.history[3:4] for site in row["counted"]]
        assert phase == "train", "every client is evaluated"
        assert sorted(case["data"])[-1] not in counted, "or the client was not asked in round 4"
        pytest.skip("the client that fails does not train in round 4 of this case")
    finally:
        del task.kernel
    result = simulate(case, out=tmp_path, resume=True)
    assert result.model_digest == plain.model_digest
    assert rows(result) == rows(plain)


def test_checkpoints_are_as_far_apart_as_asked_and_gone_at_the_end(tmp_path):
    case = {"local": MOMENTUM, "rounds": 3, **CASES["fedavg"]}
    seen = []

    class Look(StopAfter):
        def on_round(self, row) -> None:
            seen.append((tmp_path / "checkpoint.safetensors").exists())

    simulate(case, out=tmp_path, checkpoint_s=0.0, callbacks=[Look(0)])
    assert seen == [False, True, True]
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_a_run_without_a_checkpoint_starts_again_from_the_first_round(tmp_path):
    case = {"local": MOMENTUM, "rounds": 3, **CASES["fedavg"]}
    with pytest.raises(Interrupted):
        simulate(case, out=tmp_path, callbacks=[StopAfter(2)])
    (tmp_path / "checkpoint.safetensors").unlink()
    assert simulate(case, out=tmp_path, resume=True).model_digest == simulate(case).model_digest


def test_the_best_model_survives_an_interruption(tmp_path):
    case = {"local": LocalTraining(lr=5.0), "rounds": ROUNDS, **CASES["fedavg"]}
    plain = simulate(case)
    with pytest.raises(Interrupted):
        simulate(case, out=tmp_path, callbacks=[StopAfter(plain.best.round + 1)])
    resumed = simulate(case, out=tmp_path, resume=True)
    assert plain.best.round < ROUNDS - 1
    assert resumed.best.json() == plain.best.json()
    for name, value in plain.best_parameters.items():
        assert value.tobytes() == resumed.best_parameters[name].tobytes()


def test_a_torn_last_line_of_the_history_is_written_again(tmp_path):
    case = {"local": MOMENTUM, "rounds": 4, **CASES["fedavg"]}
    with pytest.raises(Interrupted):
        simulate(case, out=tmp_path, callbacks=[StopAfter(2)])
    with open(tmp_path / "history.jsonl", "a") as file:
        file.write('{"round": 3, "coh')
    result = simulate(case, out=tmp_path, resume=True)
    assert [row["round"] for row in result.history] == [1, 2, 3, 4]
    assert [json.loads(line)["round"] for line in open(tmp_path / "history.jsonl")] == [1, 2, 3, 4]


# Refused


@pytest.mark.parametrize(
    ("before", "change", "text"),
    [
        ({}, {"resume": False}, "holds a run already"),
        ({}, {"local": LocalTraining(lr=0.2)}, "holds a run with other settings"),
        ({}, {"seed": 4}, "holds a run with other settings"),
        ({}, {"rounds": 9}, "holds a run with other settings"),
        ({"callbacks": []}, {}, "holds a run that has ended"),
        ({}, {"out": None}, "resume needs the folder"),
    ],
)
def test_what_cannot_be_resumed_says_why(before, change, text, tmp_path):
    case = {"local": MOMENTUM, "rounds": 3, "seed": 3, **CASES["fedavg"], "out": tmp_path}
    try:
        simulate(case, **{"callbacks": [StopAfter(2)], **before})
    except Interrupted:
        assert not before
    with pytest.raises(ConfigError, match=text) as caught:
        simulate(case, **{"resume": True, **change})
    assert caught.value.hint


def test_a_damaged_checkpoint_is_told_from_a_run_without_one(tmp_path):
    case = {"local": MOMENTUM, "rounds": 3, **CASES["fedavg"], "out": tmp_path}
    with pytest.raises(Interrupted):
        simulate(case, callbacks=[StopAfter(2)])
    (tmp_path / "checkpoint.safetensors").write_bytes(b"not at all")
    with pytest.raises(ConfigError, match="not a whole checkpoint"):
        simulate(case, resume=True)


# Real processes, really ended


SCRIPT = """
import sys
from tests.sim.test_resume import CASES, MOMENTUM, StopAfter, simulate

class Say(StopAfter):
    def on_round(self, row):
        print(row["round"], flush=True)

case = {"local": MOMENTUM, "rounds": 400, "seed": 3, **CASES["local statistics"]}
done = simulate(case, out=sys.argv[1], resume=True, workers=2, checkpoint_s=0.0, callbacks=[Say(0)])
print(done.model_digest)
"""


def start(folder: Path) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder)],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def members(group: int) -> list[int]:
    """Processes of a session that are still there."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def shared() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("hanse-*")}


def test_a_killed_run_leaves_nothing_behind_and_goes_on_to_the_same_bits(tmp_path):
    """Killed once, interrupted once (Ctrl-C, to the whole group), at whatever moment that is."""
    case = {"local": MOMENTUM, "rounds": 400, "seed": 3, **CASES["local statistics"]}
    before, reached = shared(), []
    for number, end in ((7, signal.SIGKILL), (15, signal.SIGINT)):
        process = start(tmp_path)
        assert process.stdout is not None
        while int(line := process.stdout.readline()) < number:
            assert line
        if end == signal.SIGKILL:
            process.kill()
        else:
            os.killpg(process.pid, end)
        rest = process.stdout.read().split()
        assert process.wait(30) != 0
        reached.append(int(rest[-1]) if rest else int(line))
        for _ in range(100):
            if not members(process.pid):
                break
            time.sleep(0.05)
        assert members(process.pid) == []
    assert shared() == before
    last = json.loads((tmp_path / "history.jsonl").read_text().splitlines()[-1])["round"]
    assert 15 <= last < 400
    result = simulate(case, out=tmp_path, resume=True)
    assert result.model_digest == simulate(case).model_digest
    assert [row["round"] for row in result.history] == [*range(1, 401)]
