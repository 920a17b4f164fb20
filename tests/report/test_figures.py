import json

import pytest

from joulewise.report.figures import accuracy_figure, split_figure


def _trace(figure, name):
    (trace,) = [trace for trace in figure.data if trace.name == name]
    return trace


def test_line_is_the_mean_against_joules(cases):
    comparison = cases.comparison()
    line = _trace(accuracy_figure(comparison), "mlp")
    simulations = comparison.contenders[0].simulations
    assert list(line.x) == pytest.approx([1e6 * s.energy.memory_total_j for s in simulations])
    assert list(line.y) == pytest.approx([100 * s.mean_accuracy for s in simulations])
    halves = [100 * s.accuracy_interval().half_width for s in simulations]
    assert list(line.error_y.array) == pytest.approx(halves)


def test_line_against_the_share_of_reliable_memory(cases):
    line = _trace(accuracy_figure(cases.comparison(), "share"), "cnn")
    assert list(line.x) == pytest.approx([100, 60, 40, 20])


def test_line_against_all_energy(cases):
    comparison = cases.comparison()
    line = _trace(accuracy_figure(comparison, "total"), "cnn")
    simulations = comparison.contenders[1].simulations
    assert list(line.x) == pytest.approx([1e6 * s.energy.total_j for s in simulations])


# Of 2.5 uJ of memory with reliable cells, and 1.1 uJ that no operating point changes.
@pytest.mark.parametrize(
    ("scale", "x", "eta"), [("memory", 1.25, 2.5), ("share", 50.0, 100.0), ("total", 2.35, 2.5)]
)
def test_crossing_with_its_interval(cases, scale, x, eta):
    figure = accuracy_figure(cases.comparison(cases.contender("mlp")), scale)
    (diamonds,) = [trace for trace in figure.data if trace.mode == "markers"]
    assert diamonds.x[0] == pytest.approx(x)
    assert list(diamonds.y) == pytest.approx([94.5, 94.0])
    assert diamonds.error_x.array[0] == pytest.approx(0.02 * eta)
    assert diamonds.error_x.arrayminus[0] == pytest.approx(0.03 * eta)


def test_window_is_the_interesting_region(cases):
    figure = accuracy_figure(cases.comparison())
    low, high = figure.layout.yaxis.range
    assert 83.5 < low < 85.0
    assert 97.0 < high < 98.5


def test_networks_of_very_different_energy_share_a_logarithmic_axis(cases):
    near, far = cases.contender("near"), cases.contender("far", weights_j=2e-4)
    assert accuracy_figure(cases.comparison(near, far)).layout.xaxis.type == "log"
    assert accuracy_figure(cases.comparison(near)).layout.xaxis.type is None
    shares = accuracy_figure(cases.comparison(near, far), "share")
    assert shares.layout.xaxis.type is None


def test_hover_says_what_a_point_is(cases):
    text = _trace(accuracy_figure(cases.comparison()), "mlp").text[1]
    for said in ("eta 0.600", "Bit error rate 0.00046", "1.5 µJ", "94.80 %", "95 % interval"):
        assert said in text
    assert "Chips within one point: 100.0 %" in text


def test_names_cannot_carry_markup_into_a_chart(cases):
    comparison = cases.comparison(cases.contender("<a href='x'>& \"co\""))
    for figure in (accuracy_figure(comparison), split_figure(comparison)):
        text = json.dumps(figure.to_plotly_json())
        assert "<a href" not in text
        assert "&lt;a href" in text


def test_split_adds_up(cases):
    comparison = cases.comparison()
    figure = split_figure(comparison)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [bar.name for bar in bars] == [
        "Weights",
        "Activations",
        "Other parameters, in reliable memory",
        "Arithmetic",
    ]
    totals = [sum(parts) for parts in zip(*(bar.x for bar in bars), strict=True)]
    saved = comparison.contenders[0].savings[1].total_saved
    assert totals[:2] == pytest.approx([100, 100 * (1 - saved)])
    assert list(bars[0].x)[:2] == pytest.approx([100 * 2 / 3.6, 100 * 2 * 0.39 / 3.6])


def test_split_leaves_out_what_is_not_there(cases):
    lone = cases.contender("mlp", savings=(cases.not_reached(0.01),))
    simulations = tuple(
        s.model_copy(
            update={"energy": s.energy.model_copy(update={"memory_j": {"head.weight": 1e-6}})}
        )
        for s in lone.simulations
    )
    lone = lone.model_copy(update={"simulations": simulations})
    figure = split_figure(cases.comparison(lone, activations_device=None))
    assert "Activations" not in [trace.name for trace in figure.data]
    assert len(figure.data[0].x) == 1


def test_more_networks_than_colours(cases):
    networks = [cases.contender(f"net{k}") for k in range(8)]
    assert len(accuracy_figure(cases.comparison(*networks)).data) == 24
