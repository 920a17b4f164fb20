"""Covariances of pairs: what linear maps, in-place work and noise do to them."""

import pytest
import torch

from joulewise.contrib.full_covariance.joint import Gain, Joint, Noise, Outcome


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def covariance(batch, size, seed=0):
    factor = random(batch, size, size, seed=seed)
    return factor @ factor.mT


MATRIX = random(5, 4, seed=3)
SQUARE = random(4, 4, seed=4)
IDENTITY = Gain.diagonal(torch.ones(1, 4, dtype=torch.float64))
GAINS = {
    "identity": (IDENTITY, torch.eye(4, dtype=torch.float64)),
    "diagonal": (Gain.diagonal(SQUARE[:1]), torch.diag(SQUARE[0])),
    "map": (Gain(lambda rows: rows @ MATRIX.T, 5), MATRIX),
    "square map": (Gain(lambda rows: rows @ SQUARE.T, 4), SQUARE),
}


@pytest.mark.parametrize("name", GAINS)
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_sandwich_is_the_matrix_product(name, overwrite, grad):
    gain, matrix = GAINS[name]
    cov = covariance(2, 4)
    before = cov.clone()
    with torch.set_grad_enabled(grad):
        out = gain.sandwich(cov, overwrite=overwrite)
    assert torch.allclose(out, matrix @ before @ matrix.T, rtol=1e-12, atol=1e-12)
    if not overwrite or grad:
        assert torch.equal(cov, before)
    assert out.is_contiguous()


def test_rows_in_chunks_are_the_rows_at_once(monkeypatch):
    cov = covariance(2, 4)
    whole = GAINS["map"][0].sandwich(cov)
    monkeypatch.setattr("joulewise.contrib.full_covariance.joint._CHUNK_BYTES", 1)
    assert torch.allclose(GAINS["map"][0].sandwich(cov), whole, rtol=1e-12)
    in_place = GAINS["square map"][0].sandwich(cov.clone(), overwrite=True)
    assert torch.allclose(in_place, SQUARE @ cov @ SQUARE.T, rtol=1e-12)


def test_covariance_with_what_stays_goes_through_the_gain():
    joint = Joint()
    a = joint.add(Outcome(mean=random(2, 4), cov=covariance(2, 4)))
    gain, matrix = GAINS["map"]
    b = joint.add(Outcome(mean=random(2, 5), cov=covariance(2, 5), gains=[(a, gain)]))
    assert torch.allclose(joint.cov(b, a), matrix @ joint.own(a))
    assert torch.equal(joint.cov(a, b), joint.cov(b, a).mT)
    c = joint.add(
        Outcome(
            mean=random(2, 5),
            cov=covariance(2, 5),
            gains=[(b, Gain.diagonal(torch.ones(1, 5, dtype=torch.float64)))],
        ),
        [b],
    )
    assert torch.allclose(joint.cov(c, a), matrix @ joint.own(a))
    assert joint.cov(c, b) is None


def test_both_inputs_of_a_sum_count_towards_a_third_value():
    joint = Joint()
    a = joint.add(Outcome(mean=random(1, 4), cov=covariance(1, 4)))
    b = joint.add(Outcome(mean=random(1, 4), cov=covariance(1, 4), gains=[(a, IDENTITY)]))
    gains = [(a, IDENTITY), (b, Gain.diagonal(torch.full((1, 4), 2.0, dtype=torch.float64)))]
    c = joint.add(Outcome(mean=random(1, 4), cov=covariance(1, 4), gains=gains), [b])
    assert torch.allclose(joint.cov(c, a), 3 * joint.own(a))


def test_independent_values_keep_no_covariance():
    joint = Joint()
    a, b = (joint.add(Outcome(mean=random(1, 4), cov=covariance(1, 4))) for _ in range(2))
    assert joint.cov(a, b) is None


@pytest.mark.parametrize("units_last", [False, True])
def test_noise_blocks_lie_where_the_layout_says(units_last):
    blocks = torch.stack([covariance(2, 3, seed=s) for s in range(4)], 1)  # 4 units, 3 positions
    noise = Noise(blocks=blocks, units_last=units_last)
    expected = torch.zeros(2, 12, 12, dtype=torch.float64)
    for unit in range(4):
        for p in range(3):
            for q in range(3):
                i, j = (p * 4 + unit, q * 4 + unit) if units_last else (unit * 3 + p, unit * 3 + q)
                expected[:, i, j] = blocks[:, unit, p, q]
    assert torch.equal(noise.to_cov(), expected)
    slopes = random(2, 12)
    through = torch.einsum("bi,bij,bj->b", slopes, expected, slopes)
    assert torch.allclose(noise.variance_of_sum(slopes), through, rtol=1e-12)


def test_rounding_below_zero_is_no_variance():
    joint = Joint()
    a = joint.add(
        Outcome(mean=torch.zeros(1, 2, 1), cov=torch.diag(torch.tensor([1.0, -1e-9]))[None])
    )
    assert joint.var(a).flatten().tolist() == [1.0, 0.0]
    assert joint.var(a).shape == (1, 2, 1)
