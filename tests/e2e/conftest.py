"""One federation per module: a coordinator and three sites, for tests that leave it as it was."""

import pytest
from tests.e2e.deployed import Deployed


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    with Deployed(tmp_path_factory.mktemp("e2e")) as found:
        yield found


@pytest.fixture
def lonely(tmp_path):
    """A federation of two sites, for tests that do something to it."""
    with Deployed(tmp_path, ("north", "west")) as found:
        yield found
