import pytest

from joulewise.report.forecasts import (
    agreement_in_words,
    hover,
    layer_cells,
    layer_shares,
    pair_cells,
    pairs,
    shares_in_words,
)
from joulewise.report.knob import Knob

ETA = Knob(name="eta")


def test_pairs_are_the_points_that_were_predicted(cases):
    contender = cases.contender("mlp")
    found = pairs(contender)
    assert [pair.point for pair in found] == [1.0, 0.6, 0.4]
    assert [pair.lost for pair in found] == pytest.approx([0.0, 0.002, 0.008])
    assert [pair.predicted for pair in found] == pytest.approx([0.001, 0.003, 0.009])
    for pair, simulation in zip(found, contender.simulations, strict=False):
        low, high = simulation.accuracy_interval()
        assert pair.low == pytest.approx(0.95 - high)
        assert pair.high == pytest.approx(0.95 - low)
        assert pair.is_inside


def test_a_row_holds_both_with_intervals(cases):
    pair = pairs(cases.contender("mlp"))[2]
    low, high = pair.simulation.mse_interval()
    texts, intervals = zip(*pair_cells(pair, ETA), strict=True)
    assert texts == ("0.400", "0.0105", "0.01", "0.95", "94.20 %", "94.10 %")
    assert intervals[1] == f"{low:.3g} to {high:.3g}"
    assert intervals[3] == f"{0.01 / high:.2f} to {0.01 / low:.2f}"
    assert intervals[4].startswith("94.04 to ")


def test_one_chip_and_no_accuracy_leave_cells_empty(cases):
    lone = cases.contender("mlp", chips=1)
    lone = lone.model_copy(update={"forecasts": (cases.forecast(1.0, None), None, None, None)})
    (pair,) = pairs(lone)
    texts, intervals = zip(*pair_cells(pair, ETA), strict=True)
    assert set(intervals) == {""}
    assert texts[-1] == ""
    assert not pair.is_inside
    said = agreement_in_words(cases.comparison(lone))
    assert said == "The predicted output error is 1.00 to 1.00 times the simulated one."


def test_agreement_in_words(cases):
    assert agreement_in_words(cases.comparison()) == (
        "Predicted and simulated mean accuracy are at most 0.1 points apart where up to 2 points "
        "are lost; at 6 of the 6 operating points below, the prediction is within the simulation's "
        "95 % interval. The predicted output error is 0.95 to 0.95 times the simulated one."
    )


def test_large_losses_are_said_apart_from_small_ones(cases):
    contender = cases.contender("mlp")
    far = contender.model_copy(
        update={"forecasts": (*contender.forecasts[:3], cases.forecast(0.2, 0.62))}
    )
    said = agreement_in_words(cases.comparison(far))
    assert "0.1 points apart where up to 2 points are lost, and at most 3 points where more" in said
    only = contender.model_copy(update={"forecasts": (None, None, None, far.forecasts[3])})
    said = agreement_in_words(cases.comparison(only))
    assert said.startswith("Predicted and simulated mean accuracy are at most 3 points apart; at 0")


def test_nothing_to_say_without_forecasts(cases):
    old = cases.contender("mlp").model_copy(update={"forecasts": (), "placed": ()})
    assert agreement_in_words(cases.comparison(old)) == ""
    assert layer_shares(old) is None


def test_shares_at_the_point_nearest_to_the_largest_drop(cases):
    contender = cases.contender("mlp")
    shares = layer_shares(contender)
    assert shares.point == 0.4
    assert shares.mean_shift == pytest.approx(0.25)
    assert [layer.placed.name for layer in shares.layers] == ["head:input", "head.weight"]
    assert [layer.error_share for layer in shares.layers] == [0.25, 0.5]
    assert [layer.energy_share for layer in shares.layers] == pytest.approx([0.2, 0.8])
    assert shares.mean_shift + sum(layer.error_share for layer in shares.layers) == 1
    small = cases.contender("mlp", savings=(cases.crossing(0.002, 0.6, 2e-6),))
    assert layer_shares(small).point == 0.6
    assert layer_shares(cases.contender("mlp", savings=())).point == 0.4


def test_shares_in_words(cases):
    contender = cases.contender("mlp")
    assert shares_in_words(layer_shares(contender), ETA) == (
        "at eta 0.400, 0.80 points lost: head.weight hurts most, 50.0 % of the predicted error, "
        "and pays most, 80.0 % of the memory energy. 25.0 % of the error is the mean shift."
    )
    other = cases.forecast(0.4, 0.94).model_copy(
        update={"shares": {"head.weight": 0.05, "head:input": 0.7}}
    )
    swapped = contender.model_copy(update={"forecasts": (None, None, other, None)})
    assert shares_in_words(layer_shares(swapped), ETA) == (
        "at eta 0.400, 0.80 points lost: head:input hurts most, 70.0 % of the predicted error for "
        "20.0 % of the memory energy; head.weight pays most, 80.0 %, and has 5.0 % of the error. "
        "25.0 % of the error is the mean shift."
    )


def test_cells_and_hover_of_a_layer(cases):
    shares = layer_shares(cases.contender("mlp"))
    assert layer_cells(shares, ETA)[1] == [
        "0.400", "head.weight", "weight", "12000", "8", "8e-07", "0.80000", "0.50000",
    ]  # fmt: skip
    assert list(hover(shares.layers[1])) == [
        "Weight, 12,000 words of 8 bits",
        "Memory 800 nJ, 80.0 % of it all",
        "50.0 % of the predicted error",
    ]


def test_a_device_without_bits_leaves_them_out(cases):
    contender = cases.contender("mlp")
    plain = tuple(placed.model_copy(update={"bits": None}) for placed in contender.placed)
    shares = layer_shares(contender.model_copy(update={"placed": plain}))
    assert layer_cells(shares, ETA)[0][4] == ""
    assert hover(shares.layers[0])[0] == "Activation, 640 words"
