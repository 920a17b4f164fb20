"""The best network at each energy: the envelope of what the records hold."""

import numpy as np
import pytest

from joulewise.report.blocks import best_by_energy
from joulewise.report.view import View


@pytest.fixture(scope="module")
def view(study):
    return View(study)


def test_rows_are_points_that_nothing_betters(view):
    (table,) = best_by_energy(view).tables
    points = [
        (point.total_j, point.mean, network.training)
        for network in view.networks
        for point in network.points
    ]
    points += [
        (one.total_j, one.mean, network.training)
        for network in view.networks
        for one in network.allocations
        if one.holds
    ]
    best = []
    for joules, mean, training in sorted(points, key=lambda one: (one[0], -one[1])):
        if not best or mean > best[-1][1]:
            best.append((joules, mean, training))
    kept = []
    for one, following in zip(best, [*best[1:], (0, 0, "")], strict=True):
        last = following[2] != one[2]
        if last or not kept or one[2] != kept[-1][2] or one[1] - kept[-1][1] >= view.drop:
            kept.append(one)
    best, rows = kept, table.rows
    assert [row[0] for row in rows] == [training for *_, training in best]
    assert [row[3] for row in rows] == [f"{100 * mean:.2f} %" for _, mean, _ in best]


def test_the_sentence_names_where_each_begins(view):
    sentence = best_by_energy(view).sentence
    assert sentence.startswith("The best accuracy at an energy is that of ")
    assert "J" in sentence


def test_a_point_with_a_failed_chip_does_not_count(view):
    point = view.networks[0].points[0]
    known = point.values.copy()
    before = len(best_by_energy(view).tables[0].rows)
    for network in view.networks:
        for one in network.points:
            one.values[0] = np.nan
    try:
        assert best_by_energy(view) is None or len(best_by_energy(view).tables[0].rows) < before
    finally:
        point.values[:] = known


def test_no_block_for_a_single_network(view):
    view.__dict__["replicates"] = view.replicates[:1]
    assert best_by_energy(view) is None
