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
    comparison = cases.comparison(**changes)
    knob = Knob.of(comparison, comparison.contenders[0])
    assert (knob.title, knob.named(0.5)) == (title, named)


def test_networks_with_different_knobs_have_operating_points(cases):
    one = cases.contender("one")
    other = cases.contender("other").model_copy(update={"knob": "g_max"})
    assert title_of(cases.comparison(one, one)) == "eta"
    assert title_of(cases.comparison(one, other)) == "operating point"


def test_a_knob_that_runs_the_other_way(cases):
    record = cases.contender("one").model_copy(update={"knob": "seconds", "rising": False})
    knob = Knob.of(cases.comparison(record), record)
    assert knob.least == "longest time since programming"
    assert knob.between(7200.0, 3600.0) == "1 hour to 2 hours"
    assert knob.bounded("1 day") == "at least 1 day"
    assert knob.named(3e7, 2) == "347 days"  # no digit of the whole number is cut off


def test_a_bare_number_names_its_knob_beside_others(cases):
    one = cases.contender("one")
    other = cases.contender("other").model_copy(update={"knob": "g_max"})
    assert Knob.of(cases.comparison(one, one), one).text(0.5) == "0.500"
    assert Knob.of(cases.comparison(one, other), one).text(0.5) == "eta 0.500"
