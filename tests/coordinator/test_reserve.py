"""Room set aside on a disk: given up when it is needed, taken again when it can be."""

import os
from types import SimpleNamespace

import pytest

from hanse.coordinator import reserve
from hanse.coordinator.reserve import LEAST, MOST, Reserve


@pytest.fixture
def disk(monkeypatch):
    """What the disk says of itself, for the test to set."""
    told = SimpleNamespace(total=2**34, free=2**33)
    monkeypatch.setattr(reserve.shutil, "disk_usage", lambda _: told)
    return told


@pytest.mark.parametrize(
    ("total", "size"), [(2**20, LEAST), (2**34, 2**25), (2**35, MOST), (2**50, MOST)]
)
def test_its_size_goes_by_that_of_the_disk(disk, tmp_path, total, size):
    disk.total = total
    assert Reserve(tmp_path).size == size


def test_it_is_taken_in_earnest(tmp_path):
    held = Reserve(tmp_path)
    assert not held.is_held
    assert held.look()
    found = held.path.stat()
    assert found.st_size == held.size
    assert found.st_blocks * 512 >= held.size
    assert found.st_mode & 0o077 == 0


def test_it_is_given_up_below_its_size_and_taken_again_at_three_times_that(disk, tmp_path):
    held = Reserve(tmp_path)
    seen = []
    for free in (3, 2, 1, 0.99, 1.99, 2.99, 3):
        disk.free = int(free * held.size)
        seen.append(held.look())
        assert held.path.exists() == seen[-1]
    assert seen == [True, True, True, False, False, False, True]


def test_the_next_process_finds_it_and_does_not_believe_half_of_one(tmp_path):
    Reserve(tmp_path).look()
    assert Reserve(tmp_path).is_held
    os.truncate(tmp_path / "reserve", 100)
    again = Reserve(tmp_path)
    assert not again.is_held
    assert again.look()
    assert again.path.stat().st_size == again.size


def test_a_disk_that_has_no_room_after_all_is_no_error(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert not Reserve(tmp_path).look()
    assert not any(tmp_path.iterdir())
