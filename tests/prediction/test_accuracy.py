import math

import pytest
import torch

from joulewise.prediction.accuracy import AccuracyAccumulator, probability_correct

Z = 5.0


def gaussians(samples, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(samples, classes, generator=generator, dtype=torch.float64)
    factor = torch.randn(samples, classes, classes, generator=generator, dtype=torch.float64)
    targets = torch.randint(classes, (samples,), generator=generator)
    return mean, 0.3 * factor @ factor.mT, targets


def test_two_classes_are_closed_form():
    mean, cov, targets = gaussians(50, 2)
    rows = torch.arange(50)
    margin = mean[rows, targets] - mean[rows, 1 - targets]
    spread = cov[:, 0, 0] + cov[:, 1, 1] - 2 * cov[:, 0, 1]
    exact = torch.special.ndtr(margin / spread.sqrt())
    torch.testing.assert_close(probability_correct(mean, cov, targets), exact, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("classes", [3, 10])
def test_against_sampling(classes):
    mean, cov, targets = gaussians(40, classes)
    draws = 20_000
    normal = torch.randn(
        40, classes, draws, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    logits = mean[:, :, None] + torch.linalg.cholesky(cov) @ normal
    hits = (logits.argmax(1) == targets[:, None]).double().mean(1)
    predicted = probability_correct(mean, cov, targets)
    error = (predicted * (1 - predicted) / draws).sqrt()
    # 256 quasi-random points: 2e-3 at ten classes (measured against 65,536 points).
    assert bool(((predicted - hits).abs() <= Z * error + 2e-3).all())
    total = math.sqrt(float((error**2).sum())) / 40
    assert abs(float(predicted.mean() - hits.mean())) <= Z * total + 5e-4


def test_the_probabilities_of_all_classes_sum_to_one():
    mean, cov, _ = gaussians(20, 6)
    parts = [probability_correct(mean, cov, torch.full((20,), k)) for k in range(6)]
    torch.testing.assert_close(
        torch.stack(parts).sum(0), torch.ones(20, dtype=torch.float64), rtol=0, atol=5e-3
    )


def test_no_noise_is_the_argmax_and_a_common_shift_changes_nothing():
    mean, _, targets = gaussians(30, 5)
    exact = (mean.argmax(1) == targets).double()
    nothing = torch.zeros(30, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(probability_correct(mean, nothing, targets), exact)
    # All logits move together: a covariance of rank one that no margin sees.
    torch.testing.assert_close(probability_correct(mean, nothing + 3.0, targets), exact)


def test_gradients():
    mean, cov, targets = gaussians(4, 4)

    def accuracy(mean, factor):
        return probability_correct(mean, factor @ factor.mT, targets).mean()

    factor = torch.linalg.cholesky(cov)
    assert torch.autograd.gradcheck(
        accuracy, [mean.requires_grad_(), factor.requires_grad_()], atol=1e-6
    )


def test_accuracy_counts_chips_over_pieces():
    accumulator = AccuracyAccumulator()
    mean = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    cov = torch.zeros(2, 2, 2)
    first = torch.zeros(2, dtype=torch.int64)
    chips = torch.tensor([[[0.0, -2.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]])
    assert accumulator.result() is None
    accumulator.add(mean, cov, first, chips)
    accumulator.add(mean, cov, first, torch.zeros(2, 2, 2))
    result = accumulator.result()
    assert result.mean == 1.0
    assert result.chips == 2
    assert result.quantiles[1] == pytest.approx(0.75)  # 4 of 4 right, and 2 of 4
    assert result.chip_std == pytest.approx(0.5 / math.sqrt(2))


def test_a_covariance_of_low_rank_in_single_precision():
    """As float32 gradients give them: of a rank below the number of rivals, up to rounding."""
    generator = torch.Generator().manual_seed(0)
    for rank in (1, 2, 5):
        factor = torch.randn(30, 10, rank, generator=generator)
        mean = torch.randn(30, 10, generator=generator)
        found = probability_correct(mean, factor @ factor.mT, torch.arange(30) % 10)
        assert bool(((found >= 0) & (found <= 1)).all())
