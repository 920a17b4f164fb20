import pytest

from joulewise.report.knob import Knob, title_of


@pytest.mark.parametrize(
    ("changes", "title", "named"),
    [
        ({}, "eta", "eta 0.500"),
        ({"knob": "v_dd"}, "supply voltage", "0.500 V"),
        ({"knob": "g_max"}, "g_max", "500 mS"),
        ({"knob": "seconds"}, "time since programming", "0.5 s"),
        ({"knob": "other", "weights_device": None}, "other", "other 0.500"),
        (
            {"knob": "v_dd", "weights_device": {"voltage_unit": "Vmin"}},
            "supply voltage",
            "0.500 Vmin",
        ),
    ],
)
def test_knob_in_words(cases, changes, title, named):
    knob = Knob.of(cases.comparison(**changes).contenders[0])
    assert (knob.title, knob.named(0.5)) == (title, named)


def test_networks_with_different_knobs_have_operating_points(cases):
    one = cases.contender("one")
    other = cases.contender("other").model_copy(update={"knob": "g_max"})
    assert title_of(cases.comparison(one, one)) == "eta"
    assert title_of(cases.comparison(one, other)) == "operating point"


def test_which_way_a_knob_runs_is_told_from_its_points(cases):
    """Points are stored most reliable first."""
    record = cases.contender("one").model_copy(update={"knob": "seconds"})
    later = record.model_copy(update={"points": (1.0, 60.0, 3600.0, 86400.0)})
    assert Knob.of(record).rising
    knob = Knob.of(later)
    assert not knob.rising
    assert knob.least == "longest time since programming"
    assert knob.between(7200.0, 3600.0) == "1 hour to 2 hours"
