"""Searching: a synthetic family of plans whose slack is known."""

import math

import pytest
import torch

from joulewise.allocation.bracketing import Search


def search(threshold, *, lowest=1e-6, highest=1e3, sharp=1.0):
    """Slack falls with the logarithm of the limit, and is 0 at the threshold."""
    calls = []

    def planned(limit, start):
        calls.append(limit)
        return torch.tensor([limit], dtype=torch.float64)

    found = Search(
        planned=planned,
        slack=lambda shares: math.tanh(sharp * math.log(threshold / float(shares[0]))),
        lowest=lowest,
        highest=highest,
    )
    return found, calls


@pytest.mark.parametrize("threshold", [1e-3, 0.5, 1.0, 40.0])
@pytest.mark.parametrize("sharp", [0.2, 5.0])
def test_the_largest_limit_within_the_goal(threshold, sharp):
    found, calls = search(threshold, sharp=sharp)
    best = found.run(1.0)
    assert best is not None and best.slack >= 0
    assert best.limit <= threshold
    assert best.limit >= threshold / 1.6
    assert len(calls) <= 10


def test_a_goal_that_the_least_reliable_plan_holds():
    found, _ = search(1e9)
    assert found.run(1.0).limit == 1e3


def test_a_goal_out_of_reach():
    found, _ = search(1e-9, lowest=1e-2)
    assert found.run(1.0) is None


def test_a_lucky_plan_beyond_a_bad_one_is_not_trusted():
    found, _ = search(1.0)
    found.tried.extend([found_at(0.5, 0.1), found_at(0.8, -0.1), found_at(2.0, 0.3)])
    assert found._good().limit == 0.5


def found_at(limit, slack):
    from joulewise.allocation.bracketing import Tried

    return Tried(limit, slack, torch.zeros(1))
