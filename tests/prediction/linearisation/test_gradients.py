"""Batch axes, blocks of samples, and gradients that are at hand."""

import pytest
import torch

from joulewise.prediction.linearisation import gradients as gradients_module
from joulewise.prediction.linearisation.gradients import (
    BatchAxis,
    WholeGradients,
    sample_blocks,
    widen,
)
from joulewise.prediction.linearisation.linear_gradients import linear_gradients
from per_sample import check_gradients, jacobians, rand


@pytest.mark.parametrize(
    ("layout", "axis", "tokens_first"),
    [
        (lambda x: x, 0, False),
        (lambda x: x.transpose(0, 1), 1, False),
        (lambda x: x.flatten(0, 1), 0, False),
        (lambda x: x.transpose(0, 1).flatten(0, 1), 0, True),
    ],
)
def test_every_layout_comes_back_sample_by_sample(layout, axis, tokens_first):
    x = rand(3, 4, 5)  # samples, tokens, features
    found = BatchAxis(axis=axis, samples=3, tokens_first=tokens_first).first(layout(x))
    torch.testing.assert_close(found.flatten(1, -2), x)


def test_an_axis_that_holds_tokens_too():
    axis = BatchAxis(axis=1, samples=3)
    assert axis.is_shared(torch.zeros(2, 6)) and not axis.is_shared(torch.zeros(6, 3))


@pytest.mark.parametrize(("samples", "each", "least"), [(1, 1, 1), (7, 1 << 19, 1), (9, 1, 4)])
def test_blocks_hold_every_sample_once(samples, each, least):
    blocks = list(sample_blocks(samples, each, least))
    assert [n for block in blocks for n in range(samples)[block]] == list(range(samples))
    assert max(block.stop - block.start for block in blocks) <= -(-samples // least)


def test_numbers_larger_than_the_cache_go_one_sample_at_a_time():
    assert [b.stop - b.start for b in sample_blocks(3, 1 << 40)] == [1, 1, 1]


def test_half_precision_is_widened_and_nothing_else():
    for dtype in (torch.float16, torch.bfloat16):
        assert widen(torch.ones(2, dtype=dtype)).dtype == torch.float32
    for dtype in (torch.float32, torch.float64):
        assert widen(torch.ones(2, dtype=dtype)).dtype == dtype


def test_gradients_that_are_at_hand():
    x, gs = rand(3, 5), [rand(3, 4, seed=k) for k in (1, 2)]
    exact = jacobians(torch.nn.functional.linear, rand(4, 5, seed=3), x, gs)
    check_gradients(WholeGradients(jacobian=exact), exact, gs)


def test_a_variance_that_differs_by_sample():
    jacobian, var = rand(3, 2, 4, 5), rand(3, 4, 5, seed=1).square()
    found = WholeGradients(jacobian=jacobian).products([], var, None)
    expected = torch.einsum("nkij,nij,nlij->nkl", jacobian, var, jacobian)
    torch.testing.assert_close(found, expected)


def test_small_blocks_give_the_same(monkeypatch):
    monkeypatch.setattr(gradients_module, "_CACHED", 1)
    x, gs = rand(5, 7, 4), [rand(5, 7, 3, seed=k) for k in (1, 2)]
    exact = jacobians(torch.nn.functional.linear, rand(3, 4, seed=3), x, gs)
    check_gradients(linear_gradients(x, BatchAxis(axis=0, samples=5)), exact, gs)
