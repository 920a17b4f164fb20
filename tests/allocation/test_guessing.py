"""Guessing: simulation of the very noise that the guess is about."""

import torch

from joulewise.allocation.guessing import error_for_drop
from joulewise.placement import Batch


def test_independent_errors_of_that_size_cost_that_accuracy():
    generator = torch.Generator().manual_seed(0)
    outputs = 3 * torch.randn(4000, 2, generator=generator, dtype=torch.float64)
    targets = (outputs[:, 1] + torch.randn(4000, generator=generator) > outputs[:, 0]).long()
    batch = Batch(outputs, targets)
    error = error_for_drop([outputs], [batch], 0.03)
    clean = (outputs.argmax(1) == targets).double().mean()
    draws = 40
    noisy = 0.0
    for _ in range(draws):
        noise = error**0.5 * torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
        noisy += float(((outputs + noise).argmax(1) == targets).double().mean()) / draws
    # Binomial errors of 4000 samples, each of which is drawn 40 times.
    assert abs(float(clean) - noisy - 0.03) < 5 * 0.5 / (4000 * draws) ** 0.5


def test_a_drop_that_no_noise_causes():
    batch = Batch(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert error_for_drop([batch.inputs], [batch], 0.9) == 1e9
