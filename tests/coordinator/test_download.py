"""A download of a run under way, whose model may be another one a moment later."""

import pytest
from tests.coordinator.service import serving, spec_of, submit

from hanse.errors import TransportError
from hanse.net.account import TRIES, fetch
from hanse.net.problems import Missing


class Late:
    """A line on which the first answers about a run name a model that has gone since."""

    def __init__(self, line, run: str, times: int) -> None:
        self.line, self.path, self.times = line, f"/v1/runs/{run}", times

    def __getattr__(self, name):
        return getattr(self.line, name)

    def request(self, method, path, *more):
        response = self.line.request(method, path, *more)
        if path != self.path or self.times == 0:
            return response
        self.times -= 1
        told = {**response.json(), "model": "0" * 64}
        return type("Told", (), {"json": lambda _: told})()


@pytest.mark.parametrize("times", [0, 1, TRIES - 1])
def test_a_model_that_has_gone_meanwhile_is_asked_for_anew(tmp_path, times):
    with serving(tmp_path) as coordinator:
        anna = coordinator.person("anna", "researcher")
        coordinator.enrol("ada")
        run = submit(anna, spec_of("ada"))
        found = fetch(Late(anna, run, times), run, tmp_path)
        assert found.outcome is None
        assert found.vector[0] == 7


def test_it_is_not_asked_for_without_end(tmp_path):
    with serving(tmp_path) as coordinator:
        anna = coordinator.person("anna", "researcher")
        coordinator.enrol("ada")
        run = submit(anna, spec_of("ada"))
        with pytest.raises(TransportError, match="go by faster"):
            fetch(Late(anna, run, TRIES), run, tmp_path)
        with pytest.raises(Missing):
            fetch(anna, "none-1", tmp_path)
