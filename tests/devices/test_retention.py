import math

import pytest
import torch
from scipy import stats

from joulewise.devices import DDR3L_70C, GAIN_CELL_65NM, Retention
from joulewise.errors import InputError


def test_failed_is_the_log_normal_distribution():
    seconds = torch.tensor([1e-3, 0.1, 1.0, 50.0], dtype=torch.float64, requires_grad=True)
    failed = Retention(median_s=2.0, log_std=0.8, source="made up").failed_fraction(seconds)
    law = stats.lognorm(s=0.8, scale=2.0)
    assert failed.tolist() == pytest.approx(law.cdf(seconds.detach().numpy()), rel=1e-12)
    failed.sum().backward()
    assert seconds.grad.tolist() == pytest.approx(law.pdf(seconds.detach().numpy()), rel=1e-9)


def test_the_stated_points_of_profiles():
    at = torch.tensor([45e-6, 1e-3], dtype=torch.float64)
    assert GAIN_CELL_65NM.failed_fraction(at).tolist() == pytest.approx([3e-6, 0.5], rel=0.02)
    # None failed at 0.512 s, which has a chance of exp(-1.2) where 1.2 are expected.
    assert float(DDR3L_70C.failed_fraction(torch.tensor(0.512).double())) * 2**34 < 1.2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"median_s": 0.0}, "^median_s is 0; allowed: above 0"),
        ({"log_std": math.nan}, "^log_std is nan; allowed: above 0"),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(InputError, match=message):
        Retention(**{"median_s": 1.0, "log_std": 1.0, "source": "", **fields})
