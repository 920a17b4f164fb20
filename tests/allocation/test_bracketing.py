"""Bracketing: a synthetic family of plans whose slack is known."""

import math

import numpy as np
import pytest
import torch

from joulewise.allocation.bracketing import bracket


def search(slack, *, first=1.0, lowest=1e-6, highest=1e3):
    """The result for a slack as a function of the limit, and the limits that were tried."""
    tried = []

    def optimise(limit, start):
        assert (start is None) == (not tried)
        tried.append(limit)
        return torch.tensor([limit], dtype=torch.float64)

    found, _ = bracket(
        first,
        lowest=lowest,
        highest=highest,
        optimise=optimise,
        slack=lambda levels: slack(float(levels[0])),
    )
    return found, tried


def falling(threshold, sharp=1.0):
    """Slack falls with the logarithm of the limit, and is 0 at the threshold."""
    return lambda limit: math.tanh(sharp * math.log(threshold / limit))


@pytest.mark.parametrize("threshold", [1e-3, 0.5, 1.0, 40.0])
@pytest.mark.parametrize("sharp", [0.2, 5.0])
def test_the_largest_limit_within_the_goal(threshold, sharp):
    best, tried = search(falling(threshold, sharp))
    assert best is not None and best.slack >= 0
    assert best.max_error <= threshold
    assert best.max_error >= threshold / 1.6
    assert len(tried) <= 10


def test_a_goal_that_the_least_reliable_plan_holds():
    assert search(falling(1e9))[0].max_error == 1e3


def test_a_goal_out_of_reach():
    assert search(falling(1e-9), lowest=1e-2)[0] is None


def test_a_lucky_plan_beyond_a_bad_one_is_not_trusted():
    """By any slack: the result is the largest feasible limit below the least infeasible one."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        slacks = {}

        def slack(limit, slacks=slacks):
            return slacks.setdefault(limit, float(generator.normal()))

        best, tried = search(slack, first=float(10 ** generator.uniform(-5, 2)))
        least_bad = min((limit for limit in tried if slacks[limit] < 0), default=math.inf)
        good = [limit for limit in tried if slacks[limit] >= 0 and limit < least_bad]
        assert (best.max_error if best else None) == max(good, default=None)
