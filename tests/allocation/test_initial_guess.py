"""Initial guess: simulation of independent Gaussian errors."""

import torch

from joulewise.allocation.initial_guess import mse_for_accuracy_drop
from joulewise.placement import Batch


def test_independent_errors_of_that_size_cost_that_accuracy():
    generator = torch.Generator().manual_seed(0)
    outputs = 3 * torch.randn(4000, 2, generator=generator, dtype=torch.float64)
    targets = (outputs[:, 1] + torch.randn(4000, generator=generator) > outputs[:, 0]).long()
    batch = Batch(outputs, targets)
    error = mse_for_accuracy_drop([outputs], [batch], 0.03)
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
    assert mse_for_accuracy_drop([batch.inputs], [batch], 0.9) is None


def test_noise_that_turns_wrong_samples_right():
    """A network that is wrong more often than right: far more noise brings it to a half."""
    outputs = torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 30.0]] * 6)
    batch = Batch(outputs, torch.zeros(10, dtype=torch.int64))
    error = mse_for_accuracy_drop([outputs], [batch], 0.05)
    lost = 0.4 * float(torch.special.ndtr(torch.tensor(-1.0 / (2 * error) ** 0.5)))
    assert abs(lost - 0.05) < 1e-6


def test_logits_that_nearly_tie():
    batch = Batch(torch.tensor([[1e-6, 0.0]] * 10), torch.zeros(10, dtype=torch.int64))
    assert mse_for_accuracy_drop([batch.inputs], [batch], 0.01) == 1e-9
