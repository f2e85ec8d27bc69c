"""The files here are what scripts/make_vectors.py writes, and nothing else."""

import runpy
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPT = Path(__file__).parents[2] / "scripts" / "make_vectors.py"
MADE = runpy.run_path(str(SCRIPT))["vectors"]()


@pytest.mark.parametrize("name", MADE)
def test_a_vector_file_is_what_its_generator_writes(name):
    assert (HERE / name).read_text() == MADE[name], f"run {SCRIPT.name}, and say why it changed"


def test_the_generator_shares_no_code_with_what_it_tests():
    assert "hanse" not in SCRIPT.read_text().split('"""')[2]
