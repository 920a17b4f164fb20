import pytest

from joulewise.report.knob import Knob


@pytest.mark.parametrize(
    ("changes", "title", "named"),
    [
        ({}, "eta", "eta 0.500"),
        ({"knob": "v_dd"}, "supply voltage", "0.500 V"),
        ({"knob": "g_max"}, "g_max", "500 mS"),
        ({"knob": "other", "weights_device": None}, "other", "other 0.500"),
        (
            {"knob": "v_dd", "weights_device": {"voltage_unit": "Vmin"}},
            "supply voltage",
            "0.500 Vmin",
        ),
    ],
)
def test_knob_in_words(cases, changes, title, named):
    knob = Knob.of(cases.comparison(**changes))
    assert (knob.title, knob.named(0.5)) == (title, named)
