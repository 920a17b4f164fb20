"""What the tests of prediction share: a problem around a model, loaded and frozen."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from joulewise.devices import SRAM
from joulewise.placement import frozen, loaded, outputs_of, place, prepare
from joulewise.prediction import Problem


@contextmanager
def problem(model, inputs, targets=None, eta=0.4, bits=4, **choice) -> Iterator[Problem]:
    """A problem on SRAM words of few bits: a lot of noise, so that mistakes show."""
    weights = choice.pop("weights", SRAM(bits=bits))
    placement = place(model, weights=weights, inputs=inputs, **choice)
    batches = prepare([(inputs, targets)], model)
    with frozen(model), loaded(placement) as memory:
        memory.original()
        yield Problem(
            placement=placement,
            memory=memory,
            plan=placement.plan(eta=eta),
            batches=batches,
            references=outputs_of(model, batches),
            progress=lambda done, expected: None,
        )


class Cases:
    """What tests build their problems from."""

    problem = staticmethod(problem)

    @staticmethod
    def normal(*shape, seed=0, dtype=torch.float64):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(scope="session")
def cases() -> type[Cases]:
    return Cases
