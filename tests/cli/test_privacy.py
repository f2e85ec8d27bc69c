"""``hanse privacy``: a calculator, in words and as JSON."""

import json
import subprocess
import sys

import pytest

from hanse.privacy import epsilon


def hanse(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hanse", "privacy", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


SETTING = ("--sampling-rate", "0.01", "--steps", "1000", "--delta", "1e-6")


def test_epsilon_is_printed_rounded_up_with_what_it_is_for():
    done = hanse("epsilon", "--noise-multiplier", "1.1", *SETTING)
    assert done.returncode == 0, done.stderr
    wanted = epsilon(noise_multiplier=1.1, sampling_rate=0.01, steps=1000, delta=1e-6)
    first, second = done.stdout.splitlines()
    said = float(first.split()[2])
    assert wanted <= said < wanted + 0.01
    assert first.endswith("at δ = 1e-06")
    assert "add or remove one record; by PLD" in second


def test_noise_is_found_and_is_inverted():
    done = hanse("calibrate", "--epsilon", "4", *SETTING, "--json")
    told = json.loads(done.stdout)
    assert 0.99 * 4 <= told["epsilon"] <= 4
    again = hanse(
        "epsilon", "--noise-multiplier", str(told["noise_multiplier"]), *SETTING, "--json"
    )
    assert json.loads(again.stdout)["epsilon"] == pytest.approx(told["epsilon"], rel=2e-3)


@pytest.mark.parametrize(
    "words",
    [
        ("epsilon", "--noise-multiplier", "-1", "--delta", "1e-6"),
        ("epsilon", "--noise-multiplier", "1", "--delta", "0"),
        ("epsilon", "--noise-multiplier", "1", "--delta", "1e-6", "--sampling-rate", "2"),
        ("epsilon", "--noise-multiplier", "1", "--delta", "1e-6", "--steps", "-4"),
        ("calibrate", "--epsilon", "0", "--delta", "1e-6"),
    ],
)
def test_bad_numbers_are_told_without_a_traceback(words):
    done = hanse(*words)
    assert done.returncode not in (0, 1, 70)
    assert "Traceback" not in done.stderr
    assert "Hint:" in done.stderr
