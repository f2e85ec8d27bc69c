"""A run that is interrupted, however it is, goes on to the bits that it would have had."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from tests.laws.toys import Growing, Rounds
from tests.train.models import binary, classes, cnn, federation, images, tabular

import hanse
from hanse import Faults, FixedSize, LocalTraining, Pipeline, Weight
from hanse.errors import ConfigError, TaskError
from hanse.train.local import Turn

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
        "pipeline": Pipeline([Weight(by="examples", cap=50), Rounds(), Growing()]),
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


def numbers(folder: Path) -> list[int]:
    """The rounds that the history on disk holds."""
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [json.loads(line)["round"] for line in lines]


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
        assert numbers(tmp_path) == [*range(1, number + 1)]
    result = simulate(case, out=tmp_path, resume=True, workers=3 - workers)
    assert result.model_digest == plain.model_digest
    assert rows(result) == rows(plain)
    assert numbers(tmp_path) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("phase", ["train", "evaluate"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_stopped_in_mid_round_goes_on_to_the_same_bits(case, phase, workers, tmp_path):
    """In training before anything is committed, in evaluation after it."""
    plain = simulate(case)
    task, original = case["task"], case["task"].kernel
    victim = plain.history[3]["counted"][-1]

    def failing():
        kernel = original()
        inner = getattr(kernel, phase)

        def fails(*arguments):
            turn = next(a for a in arguments if isinstance(a, Turn))
            if (turn.round, turn.client) == (4, victim):
                raise TaskError("the power is gone", site=turn.client)
            return inner(*arguments)

        setattr(kernel, phase, fails)
        return kernel

    task.kernel = failing
    try:
        with pytest.raises(TaskError, match="the power is gone"):
            simulate(case, out=tmp_path, workers=workers, checkpoint_s=0.0)
    finally:
        del task.kernel
    assert numbers(tmp_path) == [1, 2, 3]
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
    assert plain.best.round < ROUNDS
    with pytest.raises(Interrupted):
        simulate(case, out=tmp_path, callbacks=[StopAfter(plain.best.round)])
    resumed = simulate(case, out=tmp_path, resume=True)
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
    assert numbers(tmp_path) == [1, 2, 3, 4]


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
    with pytest.raises(ConfigError, match="not a whole"):
        simulate(case, resume=True)


# Real processes, really ended


ENDLESS = 120
LOCAL = {"local": MOMENTUM, "rounds": ENDLESS, "seed": 3, **CASES["local statistics"]}


@dataclass
class Say(StopAfter):
    """Tells another process which round is over."""

    round: int = 0
    pipe: Connection | None = None

    def on_round(self, row) -> None:
        self.pipe.send(row["round"])


def session(folder: Path, pipe: Connection) -> None:
    """A run in a session of its own, so that its workers can be told from others."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    simulate(
        LOCAL, out=folder, resume=True, workers=2, checkpoint_s=0.0, callbacks=[Say(pipe=pipe)]
    )


def start(folder: Path) -> tuple[multiprocessing.Process, Connection]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=session, args=(folder, theirs))
    process.start()
    theirs.close()
    return process, ours


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


def gone(before: set[str]) -> bool:
    """Whether no file of shared memory stays that was not there before (others come and go)."""
    for _ in range(100):
        if shared() <= before:
            return True
        time.sleep(0.1)
    return False


def test_a_killed_run_leaves_nothing_behind_and_goes_on_to_the_same_bits(tmp_path):
    """Killed, then interrupted (Ctrl-C, to the whole group), at whatever moment that is."""
    before = shared()
    for number, end in ((7, signal.SIGKILL), (15, signal.SIGINT)):
        process, said = start(tmp_path)
        while said.recv() < number:
            pass
        os.killpg(process.pid, end) if end == signal.SIGINT else process.kill()
        process.join(30)
        assert process.exitcode not in (0, None)
        for _ in range(200):
            if not members(process.pid):
                break
            time.sleep(0.05)
        assert members(process.pid) == []
    assert gone(before)
    assert 15 <= numbers(tmp_path)[-1] < ENDLESS
    result = simulate(LOCAL, out=tmp_path, resume=True)
    assert result.model_digest == simulate(LOCAL).model_digest
    assert [row["round"] for row in result.history] == [*range(1, ENDLESS + 1)]


def test_an_interrupt_while_a_round_is_measured_saves_model_and_states_of_one_round(tmp_path):
    """States ahead of the model would count a total once more than a run without interrupt."""
    case = dict(CASES["aggregated statistics, states of steps"])
    plain = simulate(case)
    armed = []

    def counts(scores, targets):
        if armed:
            raise KeyboardInterrupt
        return hanse.metrics.accuracy.counts(scores, targets)

    class Arm(StopAfter):
        def on_round(self, row) -> None:
            if row["round"] == self.round:
                armed.append(True)

    case["task"] = classes(cnn, buffers="aggregate")
    case["task"].metrics = (replace(hanse.metrics.accuracy, counts=counts),)
    with pytest.raises(KeyboardInterrupt):
        simulate(case, out=tmp_path, callbacks=[Arm(2)])
    armed.clear()
    result = simulate(case, out=tmp_path, resume=True)
    assert result.model_digest == plain.model_digest


@pytest.mark.parametrize("ahead", [1, 3])
def test_rows_ahead_of_their_checkpoint_are_cut(ahead, tmp_path):
    case = {**CASES["aggregated statistics, states of steps"], "rounds": 6}
    with pytest.raises(Interrupted):
        simulate(case, out=tmp_path, callbacks=[StopAfter(2)])
    path = tmp_path / "history.jsonl"
    row = json.loads(path.read_text().splitlines()[-1])
    with open(path, "a") as file:
        for number in range(3, 3 + ahead):
            file.write(json.dumps({**row, "round": number, "cohort": 99}) + "\n")
    result = simulate(case, out=tmp_path, resume=True)
    assert [row["round"] for row in result.history] == [1, 2, 3, 4, 5, 6]
    assert all(row["cohort"] != 99 for row in result.history)
    assert numbers(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_another_task_of_the_same_class_does_not_resume_a_run(tmp_path):
    case = dict(CASES["aggregated statistics, states of steps"])
    with pytest.raises(Interrupted):
        simulate(case, out=tmp_path, callbacks=[StopAfter(2)])
    old = case["task"]
    case["task"] = hanse.train.torch.TorchTask(
        model=old.model, loss=torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0)),
        metrics=old.metrics, buffers=old.buffers,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="other settings or other code"):
        simulate(case, out=tmp_path, resume=True)
