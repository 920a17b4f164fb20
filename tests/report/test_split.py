import pytest

from joulewise.report.split import splits


def test_reliable_then_the_largest_drop(cases):
    reliable, given_up = splits(cases.contender("mlp", weights_j=2e-6))
    assert reliable.is_reliable
    assert not given_up.is_reliable
    assert given_up.where == "one point given up"
    assert list(reliable.parts_j.values()) == pytest.approx([2e-6, 0.5e-6, 0.1e-6, 1e-6])
    scaled = [2e-6 * 0.39, 0.5e-6 * 0.39, 0.1e-6, 1e-6]
    assert list(given_up.parts_j.values()) == pytest.approx(scaled)
    assert given_up.reliable_j == pytest.approx(reliable.total_j)


def test_a_drop_that_was_not_reached_has_no_split(cases):
    assert len(splits(cases.contender("mlp", savings=(cases.not_reached(0.01),)))) == 1
    assert len(splits(cases.contender("mlp", savings=()))) == 1
