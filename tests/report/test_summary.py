import pytest

from joulewise.devices import PCM
from joulewise.report import answer, iso_rows
from joulewise.report.summary import several_devices


def test_rows_in_the_order_of_the_record(cases):
    rows = iso_rows(cases.comparison())
    assert [(row.name, row.drop) for row in rows] == [
        ("mlp", "0.5 points"),
        ("mlp", "1 point"),
        ("cnn", "0.5 points"),
        ("cnn", "1 point"),
    ]


def test_row_in_full(cases):
    row = iso_rows(cases.comparison())[0]
    assert row.ideal_accuracy == "95.00 %"
    assert (row.point, row.point_interval) == ("0.500", "0.470 to 0.520")
    assert (row.memory_energy, row.total_energy) == ("1.25 uJ", "2.35 uJ")
    assert (row.memory_saved, row.memory_saved_interval) == ("50.0 %", "48.0 to 53.0 %")
    assert (row.total_saved, row.note) == ("34.7 %", "")


def test_row_without_a_crossing_has_no_figures(cases):
    record = cases.comparison(cases.contender("mlp", savings=(cases.not_reached(0.005),)))
    (row,) = iso_rows(record)
    assert row.point == "not reached"
    assert row.note == "even the most reliable point simulated loses more"
    assert {row.point_interval, row.memory_energy, row.memory_saved, row.total_saved} == {""}


def test_row_at_the_edge_is_a_bound(cases):
    edge = cases.crossing(0.01, 0.2, 2e-6, at_edge=True)
    (row,) = iso_rows(cases.comparison(cases.contender("mlp", savings=(edge,))))
    assert (row.point, row.point_interval) == ("at most 0.200", "up to 0.220")
    assert (row.memory_saved, row.memory_saved_interval) == ("at least 80.0 %", "down to 78.0 %")
    assert row.total_saved.startswith("at least ")


def test_edge_that_every_resample_shares_has_no_interval(cases):
    edge = cases.crossing(
        0.01,
        0.2,
        2e-6,
        at_edge=True,
        low=0.2,
        high=0.2,
        memory_saved_low=0.8,
        memory_saved_high=0.8,
    )
    (row,) = iso_rows(cases.comparison(cases.contender("mlp", savings=(edge,))))
    assert (row.point_interval, row.memory_saved_interval) == ("", "")


def test_interval_without_an_upper_end_is_open(cases):
    saving = cases.crossing(0.01, 0.4, 2e-6, high=None, memory_saved_low=None)
    (row,) = iso_rows(cases.comparison(cases.contender("mlp", savings=(saving,))))
    assert row.point_interval == "0.370 or more"
    assert row.memory_saved_interval == "63.0 % or less"


def test_interval_that_is_not_known_is_left_out(cases):
    unknown = {"low": None, "high": None, "memory_saved_low": None, "memory_saved_high": None}
    saving = cases.crossing(0.01, 0.4, 2e-6, **unknown)
    (row,) = iso_rows(cases.comparison(cases.contender("mlp", savings=(saving,))))
    assert (row.point_interval, row.memory_saved_interval) == ("", "")


def test_answer_for_one_network_is_one_sentence(cases):
    said = answer(cases.comparison(cases.contender("cnn")))
    assert said.sentence == (
        "At most half a point below its accuracy with a perfect memory, cnn runs at eta 0.50 and "
        "saves 50.0 % [48.0 to 53.0 %] of its memory energy, 34.7 % of all the energy counted."
    )
    assert said.details == ()


def test_answer_for_several_networks_says_each(cases):
    better = (cases.crossing(0.005, 0.3, 2e-6),)
    said = answer(cases.comparison(cases.contender("a"), cases.contender("b", savings=better)))
    assert said.sentence == (
        "At most half a point below their accuracy with a perfect memory, both networks save 50.0 "
        "to 70.0 % of their memory energy."
    )
    assert [detail.split()[0] for detail in said.details] == ["a", "b"]


def _answer_for(cases, *savings):
    networks = [cases.contender(f"net{k}", savings=(s,)) for k, s in enumerate(savings)]
    return answer(cases.comparison(*networks)).sentence


def test_answer_counts_those_that_reach_the_drop(cases):
    half = cases.crossing(0.005, 0.5, 2e-6)
    nowhere = cases.not_reached(0.005)
    assert "1 of the 2 networks save 50.0 %" in _answer_for(cases, half, nowhere)
    assert "No network stays within half a point" in _answer_for(cases, nowhere, nowhere)
    assert "is never within half a point" in _answer_for(cases, nowhere)


def test_answer_at_the_edge_is_a_bound(cases):
    edge = cases.crossing(0.02, 0.2, 2e-6, at_edge=True)
    assert "all three networks save at least 80.0 %" in _answer_for(cases, edge, edge, edge)
    assert "eta 0.20 or lower and saves at least 80.0 %" in _answer_for(cases, edge)
    assert _answer_for(cases, edge).startswith("At most 2 points below")


@pytest.mark.parametrize(("unit", "shown"), [(None, "0.500 V"), ("Vmin", "0.500 Vmin")])
def test_voltages_carry_their_unit(cases, unit, shown):
    device = cases.sram | ({} if unit is None else {"voltage_unit": unit})
    row = iso_rows(cases.comparison(knob="v_dd", weights_device=device))[0]
    assert row.point == shown


def _on_pcm(cases, name="cnn on PCM", **changes):
    """A network whose knob runs the other way: reliable at a second, within the drop at an hour."""
    points = {"point": 3600.0, "low": 7200.0, "high": 1800.0} | changes
    saving = cases.crossing(0.005, 0.5, 2e-5, **points)
    device = {
        "weights_device": PCM().describe(),
        "activations_device": None,
        "knob": "seconds",
        "rising": False,
    }
    record = cases.contender(name, savings=(saving,))
    return record.model_copy(update=device | {"points": (1.0, 60.0, 3600.0, 86400.0)})


def test_several_devices_are_compared_by_all_they_spend(cases):
    half = cases.crossing(0.005, 0.5, 2e-6)
    mixed = cases.comparison(cases.contender("cnn on SRAM", savings=(half,)), _on_pcm(cases))
    assert several_devices(mixed)
    assert not several_devices(cases.comparison())
    said = answer(mixed)
    # 23.5 and 2.35 uJ
    assert "cnn on SRAM needs least: 2.35 uJ an inference, 10 times less than cnn on PCM" in (
        said.sentence
    )
    assert said.details[1].startswith("cnn on PCM runs at 1 hour and saves 50.0 %")
    assert said.details[1].endswith(": 23.5 uJ an inference.")
    rows = iso_rows(mixed)
    assert [row.point for row in rows] == ["eta 0.500", "1 hour"]
    assert rows[1].point_interval == "30 minutes to 2 hours"


def test_a_knob_that_runs_the_other_way_is_bounded_the_other_way(cases):
    (row,) = iso_rows(cases.comparison(_on_pcm(cases, at_edge=True)))
    assert (row.point, row.point_interval) == ("at least 1 hour", "down to 30 minutes")
    assert "1 hour or longer" in answer(cases.comparison(_on_pcm(cases, at_edge=True))).sentence
    (row,) = iso_rows(cases.comparison(_on_pcm(cases, high=None)))
    assert row.point_interval == "2 hours or less"
    # At the edge, and some resampled chips never within the drop: nothing is known to either side.
    (row,) = iso_rows(
        cases.comparison(_on_pcm(cases, high=None, at_edge=True, memory_saved_low=None))
    )
    assert (row.point_interval, row.memory_saved_interval) == ("", "")


def test_networks_are_ranked_against_themselves(cases):
    """Of two sizes, each within the drop of an accuracy of its own."""
    half = cases.crossing(0.005, 0.5, 2e-6)
    small = cases.contender("mlp on SRAM", savings=(half,)).model_copy(update={"parameters": 10})
    said = answer(cases.comparison(small, cases.contender("cnn on SRAM"), _on_pcm(cases))).sentence
    assert "mlp on SRAM needs least: 2.35 uJ an inference; cnn on SRAM needs least" in said
