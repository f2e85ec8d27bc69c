"""The list of planted bugs is up to date: each can be planted in the source as it is now."""

import pytest
from tests.planted import PLANTED, ROOT

SOURCE = ROOT / "src" / "hanse"


@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.name)
def test_a_bug_can_be_planted_in_one_place(bug):
    assert (SOURCE / bug.file).read_text().count(bug.old) == 1
    assert bug.old != bug.new
    for test in bug.tests:
        assert (ROOT / test).exists()


def test_the_page_lists_every_bug():
    page = (ROOT / "docs" / "how-to" / "test-the-tests.md").read_text()
    assert [bug.name for bug in PLANTED if bug.name not in page] == []
    assert len(PLANTED) >= 20
