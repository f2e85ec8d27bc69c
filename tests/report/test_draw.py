from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hanse.report.curves import spread
from hanse.report.draw import (
    Drawn,
    Scale,
    join,
    round_ticks,
    svg,
    tag,
    text,
    tick_labels,
    ticks,
)

FLOATS = st.floats(-1e6, 1e6)


def test_texts_and_attributes_are_escaped_once():
    drawn = tag("g", text(0, 0, "<b>&"), class_='"x')
    assert drawn == ('<g class="&quot;x"><text x="0" y="0" class="t">&lt;b&gt;&amp;</text></g>')
    assert join([drawn, "<"]) == drawn + "&lt;"


def test_a_drawing_is_taken_by_templates_as_it_is():
    drawn = svg(10, 5.25, [], "a <label>")
    assert isinstance(drawn, Drawn)
    assert drawn.__html__() == drawn
    assert 'aria-label="a &lt;label&gt;"' in drawn


@given(FLOATS, FLOATS)
def test_ticks_are_inside_and_few(a, b):
    low, high = min(a, b), max(a, b)
    found = ticks(low, high)
    room = (high - low) * 1e-6
    assert len(found) <= 12
    assert all(low - room <= tick <= high + room for tick in found)


def test_ticks_are_round_and_their_labels_as_long_as_needed():
    assert tick_labels(ticks(0.52, 0.89)) == ["0.6", "0.7", "0.8"]
    assert tick_labels(ticks(0.5, 0.75)) == ["0.50", "0.55", "0.60", "0.65", "0.70", "0.75"]
    assert tick_labels(ticks(0, 1.0, 4)) == ["0.00", "0.25", "0.50", "0.75", "1.00"]
    assert tick_labels(ticks(-100, 100)) == ["−100", "−50", "0", "50", "100"]


def test_rounds_have_whole_ticks():
    assert round_ticks(3) == [1, 2, 3]
    assert round_ticks(40, 6) == [10, 20, 30, 40]
    assert round_ticks(1) == [1]


def test_a_scale_keeps_what_lies_outside_at_its_edge():
    scale = Scale(0, 10, 100, 200)
    assert [scale.at(v) for v in (-5, 0, 5, 20)] == [100, 100, 150, 200]
    assert Scale(1, 1, 0, 10).at(1) == 5


@given(st.lists(st.floats(-50, 300), min_size=1, max_size=14))
def test_labels_are_apart_and_inside_and_keep_their_order(wanted):
    places = spread(wanted, 20, 220)
    ordered = [place for _, place in sorted(zip(wanted, places, strict=True))]
    assert ordered == sorted(places)
    step = min(12.5, 200 / max(len(wanted) - 1, 1))
    assert all(b - a >= step - 1e-6 for a, b in pairwise(ordered))
    assert max(places) <= 220 + 1e-6
    assert min(places) >= 20 - 1e-6


def test_labels_with_room_stay_where_they_are():
    assert spread([50, 100, 150], 20, 220) == [50, 100, 150]
