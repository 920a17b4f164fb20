"""The charts of fronts: every plan where it is, and lines to stay above."""

import json

import pytest

from joulewise.report.fronts_figure import front_figure
from report_records import front, front_comparison


def lines(figure):
    return [trace for trace in figure.data if trace.mode == "lines+markers"]


def labels(figure):
    return [annotation.text for annotation in figure.layout.annotations]


def test_a_front_is_a_line_of_plans_with_intervals():
    figure = front_figure(front_comparison())
    first, second = lines(figure)
    assert list(first.x) == pytest.approx([100.0, 50.0, 20.0])
    assert list(first.y) == pytest.approx([99.0, 98.0, 69.0])
    low, high = front_comparison().fronts[0].front.points[1].simulation.accuracy_interval()
    assert first.error_y.array[1] == pytest.approx(100 * (high - 0.98))
    assert first.line.color != second.line.color
    assert "eta 0.500" in first.text[1] and "1 nJ, 50.0 % of reliable" in first.text[1]
    assert labels(figure) == ["perfect memory 99.00 %", "0.5 lost", "2 lost"]
    assert [shape.y0 for shape in figure.layout.shapes] == pytest.approx([99.0, 98.5, 97.0])


def test_diamonds_are_where_a_drop_is_lost():
    figure = front_figure(front_comparison())
    diamonds = [trace for trace in figure.data if trace.mode == "markers"]
    assert list(diamonds[0].x)[0] == pytest.approx(75.0)
    assert list(diamonds[0].y) == pytest.approx([98.5, 97.0])
    edge = front_figure(front_comparison(front("edge", lost=(0.0, 0.0, 0.0))))
    assert [len(trace.x) for trace in edge.data if trace.mode == "markers"] == [0]


def test_plans_that_lose_nearly_all_do_not_stretch_the_chart():
    figure = front_figure(front_comparison())
    low, high = figure.layout.yaxis.range
    assert low == pytest.approx(99 - 12) and high == pytest.approx(99.6 + 0.05, abs=0.1)


def test_networks_of_different_accuracy_are_compared_by_what_they_lose():
    comparison = front_comparison(front("one"), front("other", ideal=0.95))
    figure = front_figure(comparison, "lost")
    first, second = lines(figure)
    assert list(first.y) == pytest.approx(list(second.y))
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]
    assert labels(figure) == ["perfect memory", "0.5 lost", "2 lost"]
    assert labels(front_figure(comparison)) == ["perfect memory 99.00 %", "perfect memory 95.00 %"]
    near = front_comparison(front("one"), front("other", ideal=0.988))
    assert labels(front_figure(near)) == ["perfect memory 99.00 %"]


@pytest.mark.parametrize("view", ["accuracy", "lost", "mse"])
@pytest.mark.parametrize("chips", [1, 2])
def test_everything_drawn_is_a_number(view, chips):
    figure = front_figure(front_comparison(front("one", chips=chips)), view)
    json.dumps(figure.to_plotly_json(), allow_nan=False)


def test_errors_span_decades():
    figure = front_figure(front_comparison(front("blind", lost=None)), "mse")
    assert figure.layout.yaxis.type == "log"
    assert lines(figure)[0].y[0] == pytest.approx(0.105)
    assert "accuracy" not in lines(figure)[0].text[0]
