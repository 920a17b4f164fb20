"""The picture along the network: what is where, and as large as it says."""

import json

import pytest

from joulewise.allocation import Granularity
from joulewise.report.allocation_figure import allocation_figure
from report_records import allocation, allocation_record

PLANES = (0.1, 0.2, 0.3, 0.9)


def planes_record(granularity, points, names=("a.weight", "b:input")):
    return allocation_record(allocation(points, 0.3, names, granularity=granularity), names=names)


def heat_map(figure):
    (found,) = [trace for trace in figure.data if trace.type == "heatmap"]
    return found


def marked(figure):
    return [trace for trace in figure.data if trace.type == "scatter" and trace.mode == "markers"]


def finite(figure):
    """As the page has it: no NaN and no infinity, which no browser reads."""
    return json.dumps(figure.to_plotly_json(), allow_nan=False)


def test_energy_is_drawn_beside_that_with_a_reliable_memory():
    figure = allocation_figure(allocation_record(), 1)
    bars = {t.name: t for t in figure.data if t.type == "bar" and t.yaxis == "y2" and t.name}
    assert list(bars["With a reliable memory"].y) == pytest.approx([50.0, 50.0])
    assert list(bars["Weights"].y) == pytest.approx([15.0])
    assert (list(bars["Weights"].x), list(bars["Activations"].x)) == ([0], [1])
    errors = [t for t in figure.data if t.type == "bar" and t.yaxis == "y3" and t.name]
    assert [list(t.y) for t in errors] == [pytest.approx([37.5]), pytest.approx([37.5])]
    marks = marked(figure)
    assert [list(t.y) for t in marks] == [[0.4], [0.2]]


def test_whole_columns_say_everything():
    figure = allocation_figure(allocation_record(), 1)
    targets = [trace for trace in figure.data if trace.hovertemplate is not None]
    assert [trace.yaxis for trace in targets] == ["y", "y2", "y3"]
    for trace in targets:
        first, _ = trace.text
        for said in ("<b>a.weight</b>", "100 words of 8 bits", "eta 0.400", "300 pJ, 30.0 %"):
            assert said in first
        assert "50.0 % of the energy" in first and "37.5 % of the predicted" in first


def test_bit_planes_are_rows_from_the_low_bits_to_the_sign():
    figure = allocation_figure(planes_record(Granularity(bit_planes=True), [PLANES, (0.5,) * 4]), 0)
    drawn = heat_map(figure)
    assert [list(row) for row in drawn.z] == [[point, 0.5] for point in PLANES]
    assert list(figure.layout.yaxis.ticktext) == ["bit 0", "bit 1", "bit 2", "sign"]
    assert drawn.customdata[3][0].startswith("<b>sign</b>: eta 0.900<br><b>a.weight</b>")
    finite(figure)


def test_words_of_other_sizes_and_one_point_for_all_bits_lie_beside_them():
    drawn = heat_map(
        allocation_figure(planes_record(Granularity(bit_planes=True), [PLANES, (0.2, 0.6)]), 0)
    )
    assert [row[1] for row in drawn.z] == [0.2, None, None, 0.6]
    drawn = heat_map(
        allocation_figure(planes_record(Granularity(bit_planes=True), [PLANES, 0.4]), 0)
    )
    assert [row[1] for row in drawn.z] == [0.4] * 4


def test_rails_are_as_many_colours():
    record = planes_record(Granularity(bit_planes=True, rails=3), [(0.2, 0.4, 0.8), (0.2,) * 3])
    drawn = heat_map(allocation_figure(record, 0))
    assert [row[0] for row in drawn.z] == [0, 1, 2]
    assert list(drawn.colorbar.ticktext) == ["0.200", "0.400", "0.800"]
    assert len({colour for _, colour in drawn.colorscale}) == 3
    assert (drawn.zmin, drawn.zmax) == (-0.5, 2.5)


def test_levels_of_tensors_are_written_at_the_axis_where_they_stand_apart():
    names = ("a.weight", "b.weight", "c.weight")
    record = planes_record(Granularity(rails=3), [0.2, 0.21, 0.8], names)
    axis = allocation_figure(record, 0).layout.yaxis
    assert list(axis.ticktext) == ["0.200", "0.800"]


def test_one_point_for_all_has_an_axis():
    figure = allocation_figure(allocation_record(), 0)
    low, high = figure.layout.yaxis.range
    assert low < 0.5 < high
    finite(figure)


def test_conductances_over_decades_lie_on_a_logarithmic_axis():
    record = allocation_record(allocation([1e-6, 1e-4], 0.3)).model_copy(update={"knob": "g_max"})
    figure = allocation_figure(record, 0)
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.yaxis.ticktext[0] == "1 µS"
    finite(figure)


def test_names_are_short_and_stand_apart():
    names = tuple(f"net.blocks.{k}.weight" for k in range(200))
    figure = allocation_figure(planes_record(Granularity(), [0.2, 0.4], names), 0)
    shown = list(figure.layout.xaxis.ticktext)
    assert shown[:2] == ["0", "4"] and len(shown) == 50
    marks = marked(figure)
    assert len(marks[0].x) == 200


def test_nothing_wrong_is_predicted_and_nothing_spent():
    quiet = {"predicted_shift": 0.0, "predicted_variance": {"a.weight": 0.0, "b:input": 0.0}}
    finite(allocation_figure(allocation_record(allocation(0.4, 0.0, **quiet)), 0))
