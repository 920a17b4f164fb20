"""Large single faults: which words are found, and that draws of their faults are unbiased."""

import pytest
import torch
from torch import nn

import joulewise as jw
from joulewise.devices import SECDED, Flip
from joulewise.models import seeded
from joulewise.prediction import loaded_problem
from joulewise.prediction.error_parts import Part
from joulewise.prediction.large_faults import LargeFaults


@pytest.fixture
def searched():
    """A search of one weight, whose gradient is large at two words."""
    with seeded(0):
        model = nn.Linear(6, 4, bias=False)
    memory = jw.SRAM(bits=8, channel_dim=0)
    placement = jw.place(model, weights=memory, example_inputs=torch.ones(1, 6))
    with loaded_problem(placement, [torch.ones(2, 6)], {"eta": 0.4}, targets=False) as problem:
        part = Part(placement.weights[0], problem.memory, torch.tensor(0.4, dtype=torch.float64))
        large = LargeFaults(problem, {"weight": part})
        gradient = torch.full((4, 6), 1e-4)
        gradient[1, 2], gradient[3, 0] = 40.0, 3.0
        large.search("weight", gradient, rows=2, draws=1)
        large.select(1)
        yield large, problem


def test_words_with_large_costs_are_found(searched):
    large, problem = searched
    rows, columns = large.words["weight"].where
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(1, 2), (3, 0)]
    memory = problem.placement.weights[0].device
    ideal = memory.ideal(problem.memory.stored["weight"])
    assert torch.equal(large.words["weight"].value, ideal[rows, columns])


def test_draws_are_unbiased(searched):
    """The weighted mean of a function of faults is its sum over faults times their rates."""
    large, problem = searched
    memory = problem.placement.weights[0].device
    stored = problem.memory.stored["weight"]
    shifts, holds = memory.single_faults
    rates = memory.wrong_rates(torch.tensor(0.4, dtype=torch.float64))
    index = memory.word_classes(stored).index.long()
    exact = 0.0
    for word in ((1, 2), (3, 0)):
        for bit in range(8):
            code = index[word]
            change = float(shifts[bit, code] * stored.scale.expand(4, 6)[word])
            exact += float(rates[holds[bit, code], bit]) * change**2 * (1 + word[0])
    generator = torch.Generator().manual_seed(0)
    drawn = [large.draw(generator)[0] for _ in range(20_000)]
    values = torch.tensor([one.weight * one.change**2 * (1 + one.word[0]) for one in drawn])
    error = float(values.std()) / len(values) ** 0.5
    assert float(values.mean()) == pytest.approx(exact, abs=4 * error)
    assert error < 0.05 * exact


def test_others_on_the_same_chip(searched):
    """Faults before another happen at rates of half their own, on average, in other words."""
    large, _ = searched
    generator = torch.Generator().manual_seed(0)
    numbers = []
    for _ in range(20_000):
        fault, others = large.draw(generator)
        assert all(other.word != fault.word for other in others)
        numbers.append(len(others))
    found = torch.tensor(numbers, dtype=torch.float64)
    rates = jw.SRAM(bits=8).wrong_rates(torch.tensor(0.4, dtype=torch.float64))
    assert 0 < float(found.mean()) < float(rates.max()) * 8  # half of 16 cells at most


def test_protected_words_are_left_out():
    model = nn.Linear(6, 4, bias=False)
    memory = jw.SRAM(bits=8, fault=Flip(), protection=SECDED())
    placement = jw.place(model, weights=memory, example_inputs=torch.ones(1, 6))
    with loaded_problem(placement, [torch.ones(2, 6)], {"eta": 0.4}, targets=False) as problem:
        part = Part(placement.weights[0], problem.memory, torch.tensor(0.4, dtype=torch.float64))
        assert not LargeFaults(problem, {"weight": part}).possible
