"""Clocks that are wrong, or step, in the middle of a run: no wrong result, a clear error (P8)."""

import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.e2e.deployed import until
from tests.e2e.test_ends import NONE, TWO, environment, port_of

PACED = "from plain import Mean, data\n\ntask = Mean(pause=0.3, pauses={'west': 0.0})\n"
"""Only one site pauses: a faked clock does not let a process sleep."""
BRIEF = f'task = "paced:task"\n{NONE}'
PARTIES = ("coordinator", "west")


def faked(**more):
    """An environment in which a process has another wall clock, and the monotonic one of all."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert found, "apt-get install faketime"
    return environment(
        LD_PRELOAD=str(found[0]), DONT_FAKE_MONOTONIC="1", FAKETIME_DONT_FAKE_MONOTONIC="1", **more
    )


def start(deployed, who: str, port: int) -> None:
    if who == "coordinator":
        deployed.federation.start_coordinator(port)
    else:
        deployed.federation.start_site(who)


@pytest.mark.parametrize("who", PARTIES)
def test_a_clock_that_steps_by_ten_minutes_in_the_middle_of_a_run_changes_no_bit(lonely, who):
    (lonely.app / "paced.py").write_text(PACED)
    told, port = lonely.folder / "offset", port_of(lonely)
    told.write_text("+0\n")
    lonely.federation.end(who)
    with faked(FAKETIME_TIMESTAMP_FILE=str(told), FAKETIME_NO_CACHE="1"):
        start(lonely, who, port)
    id = lonely.submit(BRIEF, sites=TWO, rounds=8)
    for round, offset in enumerate(("+600", "-600", "+0", "-600", "+600"), 1):
        lonely.reaches(id, round)
        told.write_text(f"{offset}\n")
    assert lonely.end(id)["outcome"] == "done"
    assert lonely.digest(id) == lonely.simulated(id).model_digest
    assert all(len(row["counted"]) == 2 for row in lonely.history(id))


@pytest.mark.parametrize("wrong", ["+400d", "-400d"])
@pytest.mark.parametrize("who", PARTIES)
def test_a_clock_that_is_wrong_by_400_days_stops_and_says_so_and_the_run_goes_on(
    lonely, who, wrong
):
    (lonely.app / "paced.py").write_text(PACED)
    port = port_of(lonely)
    id = lonely.submit(BRIEF, sites=TWO, rounds=6)
    lonely.reaches(id, 2)
    lonely.federation.end(who)
    with faked(FAKETIME=wrong):
        start(lonely, who, port)
    lonely.shows("west", "off line", "a certificate that", "clock")
    with ExitStack() as stack:
        if who == "west":
            before = lonely.told(id)["round"]
            time.sleep(1.0)
            assert lonely.told(id)["round"] <= before + 1  # it is waited for
        stack.callback(start, lonely, who, port)
        lonely.federation.end(who)
    until(lambda: lonely.told(id)["outcome"])
    assert lonely.end(id)["outcome"] == "done"
    assert lonely.digest(id) == lonely.simulated(id).model_digest
