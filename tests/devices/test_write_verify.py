import numpy as np
import pytest
import torch

from joulewise.devices import RERAM, Chip, Crossbar, WriteVerify, check_device
from joulewise.errors import InputError

UNVERIFIED, VERIFIED = Crossbar(sigma=2e-6), Crossbar(sigma=2e-7)


def device(**fields):
    return WriteVerify(**{"unverified": UNVERIFIED, "verified": VERIFIED, "g_max": 25e-6, **fields})


def test_the_weights_of_the_highest_scores_come_first():
    scores = {"w": torch.tensor([[0.1, 5.0], [3.0, 0.2]])}
    memory, weights = device(scores=scores), torch.tensor([[0.5, -0.5], [1.0, 0.1]])
    stored = memory.store(weights, name="w")
    assert stored.rank.tolist() == [[0.75, 0.0], [0.25, 0.5]]
    by_size = memory.store(weights, name="other").rank  # no scores: the largest weight first
    assert by_size.tolist() == [[0.25, 0.5], [0.0, 0.75]]
    half = memory.read(stored, 0.5, Chip(seed=1))
    unverified, verified = (
        d.read(stored.pairs, 25e-6, Chip(seed=1)) for d in (UNVERIFIED, VERIFIED)
    )
    assert half[0, 1] == verified[0, 1] and half[1, 0] == verified[1, 0]
    assert half[0, 0] == unverified[0, 0] and half[1, 1] == unverified[1, 1]
    assert torch.equal(memory.read(stored, 0.0, Chip(seed=1)), unverified)
    assert torch.equal(memory.read(stored, 1.0, Chip(seed=1)), verified)


def test_self_check():
    assert check_device(device(), seed=2).largest < 5


def test_energy_is_that_of_reads_and_a_share_of_programming():
    from contracts import traffic

    memory, load = device(pulses=(1.0, 9.0), pulse_j=1e-9, inferences=100.0), traffic(1)
    reads = float(VERIFIED.energy(load, 25e-6))
    for fraction, pulses in ((0.0, 1.0), (0.25, 3.0), (1.0, 9.0)):
        assert memory.pulses_per_weight(fraction) == pytest.approx(pulses)
        expected = reads + 768 * pulses * 1e-9 / 100
        assert float(memory.energy(load, fraction)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"verified": Crossbar(on_off=5.0)},
            "^on_off of verified is 5.0; allowed: that of",
        ),
        (
            {"verified": Crossbar(programming=RERAM["milo2021"]), "g_max": 2e-4},
            "^the lowest conductance of verified is 5e-05; allowed: that of unverified, 0,",
        ),
        ({"verified": Crossbar(levels=3)}, "^levels of verified is 3; allowed: that of unverified"),
        ({"unverified": "crossbar"}, "^unverified is 'crossbar' .str.; allowed: a Crossbar"),
        ({"g_max": 1.0}, "^g_max is 1; allowed: 1e-07 to 0.001"),
        ({"pulses": (10.0, 1.0)}, r"^pulses\[1\] is 1; allowed: above 10 to"),
        ({"inferences": 0.0}, "^inferences is 0; allowed: 1 to"),
        ({"pulses": (1.0,)}, r"^pulses is \(1.0,\); allowed: two numbers"),
        ({"pulses": 5}, "^pulses is 5 .int.; allowed: two numbers"),
        ({"pulses": None}, "^pulses is None"),
        ({"pulses": ("a", 2.0)}, r"^pulses\[0\] is 'a' .str.; allowed: a number"),
        ({"g_max": torch.tensor([[1e-6], [2e-6]])}, "^g_max is of type Tensor; allowed: a number"),
        ({"scores": 5}, "^scores is 5 .int.; allowed: tensors by name, or None"),
        ({"scores": [torch.ones(2)]}, "^scores is of type list; allowed: tensors by name"),
        ({"scores": {"w": np.ones(2)}}, "^the scores of w is of type ndarray; allowed: a tensor"),
        ({"scores": {"w": [1.0]}}, "^the scores of w is of type list; allowed: a tensor of real"),
        (
            {"scores": {"w": torch.ones(2, dtype=torch.complex64)}},
            "^the scores of w is torch.complex64; allowed: a tensor of real numbers",
        ),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(InputError, match=message):
        device(**fields)


def test_fractions_have_no_gradient():
    from contracts import traffic

    memory, fraction = device(), torch.tensor(0.5, requires_grad=True)
    stored = memory.store(torch.eye(2))
    for function in (memory.moments, lambda _, point: memory.energy(traffic(1), point)):
        with pytest.raises(InputError, match="^WriteVerify has no gradient in its operating point"):
            function(stored, fraction)


def test_scores_of_another_shape():
    memory = device(scores={"w": torch.zeros(3)})
    with pytest.raises(InputError, match=r"^the scores of w is \(3,\); allowed: \(2, 2\)"):
        memory.store(torch.eye(2), name="w")


def test_scores_are_part_of_the_record_and_numbers():
    one, other = (device(scores={"w": torch.full((2, 2), x)}) for x in (1.0, 2.0))
    assert one.describe() != other.describe()
    assert device().describe()["scores_blake2b"] == ""
    with pytest.raises(InputError, match="^the scores of w is not all numbers; allowed: numbers"):
        device(scores={"w": torch.full((2, 2), torch.nan)}).store(torch.eye(2), name="w")
