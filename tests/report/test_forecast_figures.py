import json
import math

import pytest

from joulewise.report.forecast_figures import MOST_LAYERS, agreement_figure, layers_figure
from joulewise.report.forecasts import layer_shares


def _trace(figure, name):
    (trace,) = [trace for trace in figure.data if trace.name == name]
    return trace


def test_markers_are_losses_and_bars_their_intervals(cases):
    comparison = cases.comparison()
    markers = _trace(agreement_figure(comparison), "mlp")
    lost = [0.0, 0.2, 0.8]
    assert [x**2 for x in markers.x] == pytest.approx(lost, abs=1e-9)
    assert [y**2 for y in markers.y] == pytest.approx([0.1, 0.3, 0.9])
    low, high = comparison.contenders[0].simulations[2].accuracy_interval()
    assert (markers.x[2] + markers.error_x.array[2]) ** 2 == pytest.approx(100 * (0.95 - low))
    left = markers.x[2] - markers.error_x.arrayminus[2]
    assert math.copysign(left**2, left) == pytest.approx(100 * (0.95 - high))
    assert "95 % interval" in markers.text[2]
    assert "Mean shift: 25.0 %" in markers.text[2]


def test_both_axes_are_the_same_and_hold_everything(cases):
    figure = agreement_figure(cases.comparison())
    across, up = figure.layout.xaxis, figure.layout.yaxis
    assert across.range == up.range
    assert across.tickvals == up.tickvals
    assert [float(text) for text in across.ticktext] == pytest.approx(
        [value**2 for value in across.tickvals]
    )
    for trace in figure.data:
        assert max(trace.y) <= up.range[1]


def test_networks_without_accuracies_are_not_drawn(cases):
    lone = cases.contender("mlp").model_copy(
        update={"forecasts": (cases.forecast(1.0, None), None, None, None)}
    )
    assert [trace.name for trace in agreement_figure(cases.comparison(lone)).data] == [None]


def test_bars_are_shares_in_the_order_of_the_network(cases):
    figure = layers_figure(layer_shares(cases.contender("mlp")))
    weights = _trace(figure, "Weights: share of the predicted error")
    activations = _trace(figure, "Activations: the same")
    energy = _trace(figure, "Share of memory energy")
    assert (list(activations.y), list(weights.y)) == ([0], [1])
    assert (list(activations.x), list(weights.x)) == ([25], [50])
    assert list(energy.x) == pytest.approx([20, 80])
    assert [text.strip() for text in figure.layout.yaxis.ticktext] == ["head:input", "head.weight"]
    assert "12,000 words of 8 bits" in weights.text[0]


def _deep(cases, count):
    """Layers of growing shares."""
    contender = cases.contender("deep")
    names = [f"blocks.{k}.attention.queries_keys_values.weight" for k in range(count)]
    forecast = contender.forecasts[2].model_copy(
        update={"shares": {name: k / count**2 for k, name in enumerate(names)}}
    )
    energy = contender.simulations[2].energy.model_copy(
        update={"memory_j": dict.fromkeys(names, 1e-9)}
    )
    simulations = list(contender.simulations)
    simulations[2] = simulations[2].model_copy(update={"energy": energy})
    return contender.model_copy(
        update={
            "placed": tuple(
                contender.placed[1].model_copy(update={"name": name}) for name in names
            ),
            "forecasts": (None, None, forecast, None),
            "simulations": tuple(simulations),
        }
    )


def test_of_a_deep_network_the_largest_are_drawn_in_order(cases):
    figure = layers_figure(layer_shares(_deep(cases, MOST_LAYERS + 20)))
    ticks = [text.strip() for text in figure.layout.yaxis.ticktext]
    assert len(ticks) == len(set(ticks)) == MOST_LAYERS
    assert max(len(tick) for tick in ticks) <= 26
    assert ticks[-1].startswith(f"blocks.{MOST_LAYERS + 19}"[:9])
    assert ticks[-1].endswith("values.weight")


def test_names_cannot_carry_markup_into_a_chart(cases):
    contender = cases.contender("<a href='x'>& \"co\"")
    named = contender.placed[1].model_copy(update={"name": "<b>w</b>"})
    forecast = contender.forecasts[2].model_copy(update={"shares": {"<b>w</b>": 0.5}})
    energy = contender.simulations[2].energy.model_copy(update={"memory_j": {"<b>w</b>": 1e-6}})
    simulations = list(contender.simulations)
    simulations[2] = simulations[2].model_copy(update={"energy": energy})
    contender = contender.model_copy(
        update={
            "placed": (named,),
            "forecasts": (None, None, forecast, None),
            "simulations": tuple(simulations),
        }
    )
    figures = [
        agreement_figure(cases.comparison(contender)),
        layers_figure(layer_shares(contender)),
    ]
    text = json.dumps([figure.to_plotly_json() for figure in figures])
    assert "<a href" not in text
    assert "&lt;a href" in text
    assert "<b>w</b>" not in text
    assert "<b>&lt;b&gt;w&lt;/b&gt;</b>" in text
