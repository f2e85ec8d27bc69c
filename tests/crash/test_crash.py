"""kill -9 of anything at any time, and nobody to help: the run ends in the same bits (P1 to P3).

``unit`` makes an update that was lost, or counted twice, visible in the model.
"""

import random
import time

import pytest
from tests.crash import unit
from tests.crash.supervised import KILL, Supervised

import hanse
from hanse.failpoints import Point

pytestmark = pytest.mark.timeout(600)
ROUNDS = 4
SITE = [point for point in Point if point.startswith("site-")]
JOB = [point for point in Point if point.startswith("job-")]
REOPENED = Point.ROUND_REOPENED
"""Only a disk that loses something comes there."""
COORDINATOR = [point for point in Point if point not in (*SITE, *JOB, REOPENED)]


@pytest.fixture(scope="module")
def supervised(tmp_path_factory):
    with Supervised(tmp_path_factory.mktemp("crash")) as found:
        yield found


@pytest.fixture(scope="module")
def digest(supervised) -> str:
    """The model's digest of the same run, simulated, that nothing disturbs."""
    supervised.end(id := supervised.submit(ROUNDS))
    found = hanse.simulate(supervised.app / "unit.toml").model_digest
    supervised.check(id, found)
    return found


def sweep(supervised: Supervised, digest: str, name: str, arming: list[str]) -> None:
    """Let a process die at each point in turn, in as many runs as that takes."""
    supervised.arming[name].extend(arming)
    supervised.kill(name)  # the first start that is armed
    ids, whole = list[str](), dict[str, int]()
    while supervised.arming[name] or supervised.armed[name]:
        if not ids or supervised.has_ended(ids[-1]):
            now = supervised.armed[name]
            whole[now] = whole.get(now, 0) + 1
            assert whole[now] < 3, f"{name} never came to {now}"
            ids.append(supervised.submit(ROUNDS))
        time.sleep(0.02)
    for id in ids:
        supervised.end(id)
        supervised.check(id, digest)
    assert {*arming} <= {at for who, _, at in supervised.deaths if who == name}
    assert {status for _, status, _ in supervised.deaths} == {-KILL}


def test_the_coordinator_dies_at_every_point(supervised, digest):
    sweep(supervised, digest, "coordinator", [f"{point}:1:kill" for point in COORDINATOR])


def test_uploads_that_the_disk_loses_are_asked_for_again(supervised, digest):
    """Killed when an update has its receipt, and once more when the round has begun again."""
    supervised.loses_spool = True
    try:
        armed = [f"{Point.SHARE_FOLDED}:1:kill", f"{REOPENED}:1:kill"]
        sweep(supervised, digest, "coordinator", armed)
    finally:
        supervised.loses_spool = False


def test_a_site_dies_at_every_point(supervised, digest):
    sweep(supervised, digest, "west", [f"{point}:1:kill" for point in SITE])


def test_a_job_dies_at_every_point(supervised, digest):
    """The second time each: the job that is started in its place comes there once, and goes on."""
    for point in JOB:
        supervised.arming["west"].append(f"{point}:2:kill")
        supervised.kill("west")
        supervised.end(id := supervised.submit(ROUNDS))
        supervised.check(id, digest)
        log = (supervised.federation.folder / "west.log").read_text()
        assert f"{id}: the process of the run's app ended with status -9: it is started" in log


def schedule(supervised: Supervised, digest: str, seed: int) -> None:
    """Kill at random, once or several times, in one run.

    A job once at most: what kills it twice in a round is told as a failed training.
    """
    draw = random.Random(seed)
    id = supervised.submit(ROUNDS, f"unit-{seed}")
    targets = ["coordinator", *unit.SITES] * 2 + [f"{site}'s job" for site in unit.SITES]
    for target in draw.sample(targets, draw.randint(1, 4)):
        time.sleep(draw.uniform(0, 1.0))
        if not supervised.has_ended(id):
            supervised.kill(target)
    supervised.end(id)
    supervised.check(id, digest)


@pytest.mark.parametrize("seed", range(6))
def test_ten_random_schedules(supervised, digest, seed):
    for number in range(10 * seed, 10 * seed + 10):
        print("seed", number)
        schedule(supervised, digest, number)


@pytest.mark.torture
@pytest.mark.timeout(7200)
def test_a_thousand_random_schedules_and_how_soon_all_is_back(supervised, digest):
    supervised.back.clear()
    supervised.heard = []
    for seed in range(1000, 2000):
        print("seed", seed)
        schedule(supervised, digest, seed)
    ats = dict[str, dict[float, float]]()
    for what, seconds in (("listened", supervised.back), ("had its sites", supervised.heard)):
        found = sorted(seconds)
        ats[what] = {q: round(found[int(q * (len(found) - 1))], 2) for q in (0.5, 0.9, 0.99, 1.0)}
        print(f"{len(found)} deaths of the coordinator; seconds until it {what} again: {ats[what]}")
    assert all(at[0.99] <= 5.0 for at in ats.values())
