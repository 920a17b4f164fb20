"""A problem around a model, loaded and frozen, shared by the tests of prediction."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from joulewise.devices import SRAM
from joulewise.placement import place
from joulewise.prediction import Problem
from joulewise.prediction.problem import loaded_problem


@contextmanager
def problem(model, inputs, targets=None, eta=0.4, bits=4, **choice) -> Iterator[Problem]:
    """A problem on SRAM words of few bits: a lot of noise, so that mistakes show."""
    weights = choice.pop("weights", SRAM(bits=bits))
    placement = place(model, weights=weights, example_inputs=inputs, **choice)
    with loaded_problem(placement, [(inputs, targets)], placement.plan({"eta": eta})) as found:
        yield found


class Cases:
    """Builder of problems."""

    problem = staticmethod(problem)

    @staticmethod
    def normal(*shape, seed=0, dtype=torch.float64):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(scope="session")
def cases() -> type[Cases]:
    return Cases
