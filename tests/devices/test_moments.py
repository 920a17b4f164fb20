"""A memory of one's own that states no moments: prediction, allocation and checks of estimates."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

import joulewise as jw
from gaussian_memory import GaussianMemory
from joulewise.allocation import Granularity, OutputError, allocate
from joulewise.contrib import FullCovariance, NoiseMaximisation
from joulewise.data import load_digits
from joulewise.devices import Array, Chip, Crossbar, Device, Knob, ReadMoments, check_device
from joulewise.errors import DeviceError, InputError
from joulewise.models import build, seeded
from joulewise.placement import place
from joulewise.prediction import Corrected, predict
from joulewise.simulation import simulate
from joulewise.training import TrainingSpec, train


@dataclass(frozen=True)
class Noisy(Device[torch.Tensor]):
    """The least that a memory needs; ``gain`` biases what is read."""

    gain: float = 1.0
    knob = Knob(name="std", least_reliable=1.0, most_reliable=0.001)

    def store(self, tensor, *, limit=None, name="tensor"):
        return tensor.detach().clone()

    def read(self, stored, point, chip):
        normal = torch.from_numpy(chip.generator("noise").standard_normal(stored.shape))
        return (self.gain * stored + float(point) * normal).to(stored.dtype)

    def energy(self, traffic, point):
        return traffic.reads * 1e-15 / torch.as_tensor(point, dtype=torch.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckCrossbar(Crossbar):
    """A crossbar of which some devices are stuck at a conductance of 0 or at ``g_max``.

    Their energy is left as it is.
    """

    stuck: float = 0.05

    def read(self, stored, point, chip):
        shape = (2, *stored.weights.shape)
        draw = torch.from_numpy(chip.generator("stuck").random(shape))
        weights = super(StuckCrossbar, self).read(stored, point, chip)
        plus, minus = weights.clamp(min=0), (-weights).clamp(min=0)
        stuck_on, stuck_off = draw < self.stuck / 2, draw > 1 - self.stuck / 2
        plus = torch.where(stuck_on[0], stored.limit, plus.masked_fill(stuck_off[0], 0))
        minus = torch.where(stuck_on[1], stored.limit, minus.masked_fill(stuck_off[1], 0))
        return (plus - minus).to(stored.dtype)

    moments = Device.moments


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture(scope="module")
def network(digits):
    torch.set_num_threads(1)
    model = build("mlp", digits.input_shape, digits.classes, seed=0)
    train(model, digits, TrainingSpec(epochs=10, lr=0.1, seed=0))
    return model


def placed(network, digits, memory):
    return place(network, weights=memory, example_inputs=digits.test.inputs[:4])


# Defaults


def test_a_memory_needs_store_read_energy_and_a_knob():
    memory = Noisy(gain=0.9)
    assert memory.describe() == {"device": "Noisy", "gain": 0.9}
    assert torch.equal(memory.ideal(torch.ones(3)), torch.ones(3))
    assert memory.point(std=0.5) == 0.5
    assert memory.reliable_bit_j == Crossbar().reliable_bit_j
    assert not memory.states_moments and not memory.smooth
    assert GaussianMemory().states_moments and GaussianMemory().smooth


def test_nested_fields_are_described_as_plain_data():
    @dataclass(frozen=True)
    class Analog(Noisy):
        tiles: Array = field(default_factory=lambda: Array(rows=64))
        ends: tuple = (1.0, 2.0)
        kind: object = Chip

    described = Analog().describe()
    assert described["tiles"]["array_rows"] == 64
    assert described["ends"] == [1.0, 2.0]
    assert described["kind"] == "Chip"


def test_what_is_stored_must_be_a_tensor_or_have_an_ideal_read():
    class Pair(Noisy):
        def store(self, tensor, *, limit=None, name="tensor"):
            return (tensor, tensor)

    message = "^what Pair.store returns is a tuple; allowed: a tensor, or a method ideal"
    with pytest.raises(DeviceError, match=message):
        check_device(Pair())


# Estimates


def test_estimates_are_repeatable_unbiased_and_of_the_tensor():
    memory, tensor = Noisy(gain=0.9), torch.linspace(-1, 1, 500, dtype=torch.float64)
    moments = memory.moments(tensor, 0.1)
    again = memory.moments(tensor, 0.1)
    assert torch.equal(moments.mean, again.mean) and torch.equal(moments.var, again.var)
    chips = memory.moment_chips
    assert moments.estimate.chips == chips
    z = (moments.mean - 0.9 * tensor) * chips**0.5 / 0.1
    assert float(z.square().mean()) == pytest.approx(1, abs=5 * (2 / 500) ** 0.5)
    assert float(moments.var.mean()) == pytest.approx(0.01, rel=5 * (2 / 500 / chips) ** 0.5)
    # The standard error that is stated is that of 500 Gaussian words.
    assert moments.estimate.relative_error == pytest.approx((2 / 500 / (chips - 1)) ** 0.5, rel=0.4)
    other = memory.moments(-tensor, 0.1)
    assert not torch.equal(other.mean + 0.9 * tensor, moments.mean - 0.9 * tensor)


@pytest.mark.parametrize("accuracy", [True, False])
@pytest.mark.parametrize("gain", [1.0, 0.9])
def test_the_squared_shift_has_no_bias_of_the_estimated_mean(gain, accuracy):
    """A linear network, whose mean shift and variance are known."""
    model = nn.Linear(200, 10, bias=False).double()
    model.weight.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    inputs = torch.randn(50, 200, generator=torch.Generator().manual_seed(1)).double()
    data = [(inputs, torch.zeros(50, dtype=torch.int64))]
    placement = place(model, weights=Noisy(gain=gain), example_inputs=inputs)
    forecast = predict(placement, data, at={"std": 0.1}, method=jw.FirstOrder(accuracy=accuracy))
    shift = float(((gain - 1) * model(inputs)).detach().square().mean())
    variance = 0.01 * float(inputs.square().sum(1).mean())
    chips = Noisy.moment_chips
    assert forecast.method == f"first-order, moments estimated from {chips} chips"
    # The squared error of the mean read alone would be variance / chips, ten errors away.
    error = variance / chips * (2 / 10 / 50 * 50 / 20) ** 0.5 * 5
    error += 4 * (shift * variance / chips / 10) ** 0.5
    assert float(forecast.mean_shift) == pytest.approx(shift, abs=error)
    assert float(forecast.mse) == pytest.approx(shift + variance, abs=4 * forecast.standard_error)
    if forecast.per_output is not None:
        assert float(forecast.per_output.mean()) == pytest.approx(float(forecast.mse))


def test_a_crossbar_with_stuck_devices_is_predicted_within_its_stated_error(network, digits):
    """5 % of the devices; to second order, on 300 chips that prediction did not use."""
    placement = placed(network, digits, StuckCrossbar(sigma=1e-6))
    data = digits.test.subset(200, seed=0)
    result = simulate(placement, data, at={"g_max": 2e-5}, chips=300, seed=1000)
    forecast = predict(placement, data, at={"g_max": 2e-5}, method="second-order")
    assert forecast.method == "second-order, moments estimated from 64 chips"
    chance = float(torch.tensor(result.mse).std()) / 300**0.5
    error = 3 * math.hypot(chance, forecast.standard_error)
    assert abs(float(forecast.mse) - result.mean_mse) < error
    assert error < 0.2 * result.mean_mse
    ideal = predict(placed(network, digits, Crossbar(sigma=1e-6)), data, at={"g_max": 2e-5})
    assert result.mean_mse > 2 * float(ideal.mse)  # the stuck devices are most of it


# Without gradients


def test_gradients_in_the_point_are_refused(network, digits):
    placement = placed(network, digits, Noisy())
    point = torch.tensor(0.01, requires_grad=True)
    message = "^Noisy states no moments, and estimates have no gradient .*Granularity.levels=...."
    with pytest.raises(InputError, match=message):
        predict(placement, digits.test.subset(20), at={"std": point})
    with pytest.raises(InputError, match="whose moments have no gradient .*estimates"):
        NoiseMaximisation(placement, price=1.0, horizon=5)


def test_allocation_needs_listed_points(digits):
    with seeded(0):
        small = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    placement, data = placed(small, digits, Noisy()), digits.test.subset(100, seed=0)
    message = "whose moments have no gradient .*; allowed: Granularity.levels=..."
    with pytest.raises(InputError, match=message):
        allocate(placement, data, goal=OutputError(0.1), chips=20, samples=50)
    levels = Granularity(levels=(0.001, 0.003, 0.01, 0.03, 0.1))
    found = allocate(
        placement, data, goal=OutputError(0.1), granularity=levels, chips=20, samples=50
    )
    assert found.holds
    assert {value for one in found.plan.values() for value in one.values()} <= set(levels.levels)
    assert found.energy.normalised < 0.5


@pytest.mark.parametrize("method", [Corrected(), FullCovariance()])
def test_methods_that_need_known_moments_refuse_by_name(network, digits, method):
    placement = placed(network, digits, Noisy())
    with pytest.raises(InputError, match="^the memory of features.1.weight is one that states no"):
        predict(placement, digits.test.subset(20), at={"std": 0.01}, method=method)


def test_activations_on_a_memory_without_moments_are_refused_by_name(network, digits):
    class Holds(Noisy):
        def round_trip(self, inputs, point, chip, limit, *, words=None):
            return inputs if chip is None else inputs + self.read(0 * inputs[0], point, chip)

    placement = place(network, activations=Holds(), example_inputs=digits.test.inputs[:4])
    assert simulate(placement, digits.test.subset(20), at={"std": 0.01}, chips=2).mean_mse > 0
    with pytest.raises(InputError, match=":input is Holds, which states no moments; allowed"):
        predict(placement, digits.test.subset(20), at={"std": 0.01})


# The self-check


def test_the_check_says_that_moments_are_estimated():
    found = check_device(Noisy(), chips=40)
    assert found.moments == () and found.estimated_from == 64
    assert "states no moments to compare, they are estimated from 64 chips" in repr(found)


def test_the_check_finds_a_knob_the_wrong_way_round():
    class Backwards(Noisy):
        knob = Knob(name="std", least_reliable=0.001, most_reliable=1.0)

    message = (
        "^the mean squared error of Backwards at its most reliable point, std 1, is .*exchange"
    )
    with pytest.raises(DeviceError, match=message):
        check_device(Backwards(), chips=40)


def test_the_check_finds_noise_that_does_nothing_and_reads_of_another_shape():
    class Silent(Noisy):
        def read(self, stored, point, chip):
            return stored.clone()

    class Flat(Noisy):
        def read(self, stored, point, chip):
            return stored.reshape(-1)

    with pytest.raises(DeviceError, match="^every read of Silent is what was stored; allowed"):
        check_device(Silent(), chips=40)
    with pytest.raises(DeviceError, match=r"^a read of Flat at std 1 is of shape \(1024,\)"):
        check_device(Flat(), chips=40)


@pytest.mark.parametrize(
    ("memory", "point"),
    [
        (jw.SRAM(bits=6), 0.5),
        (Crossbar(sigma=1e-6), 2e-5),
        (jw.PCM(), 86400.0),
        (jw.PCM(compensate=False), 3600.0),
    ],
)
def test_noise_has_the_moments_and_the_shared_factor(memory, point):
    weights = torch.tensor([[0.9, -0.5, 0.2], [-1.0, 0.7, 0.05]], dtype=torch.float64)
    moments = memory.moments(memory.store(weights), point)
    generator, draws = torch.Generator().manual_seed(0), 40_000
    noise = torch.stack([moments.noise(generator).flatten() for _ in range(draws)]).double()
    var = moments.var.double().flatten()
    expected = torch.diag(var)
    if moments.common is not None:
        mean, coupling = moments.mean.double().flatten(), moments.common.coupling.double().flatten()
        expected = moments.common.covariance(mean, coupling).fill_diagonal_(0.0) + expected
    # Standard errors of a mean and of a covariance of Gaussian numbers.
    assert (noise.mean(0).abs() <= 5 * (var / draws).sqrt()).all()
    spread = (torch.outer(var, var) + expected.square()) / draws
    assert ((noise.T.cov() - expected).abs() <= 5 * spread.sqrt()).all()


@pytest.mark.parametrize("size", [1e-4, 1e-3, 1e-2, 0.1])
def test_noise_of_narrow_numbers_has_its_variance(size):
    mean = torch.randn(200_000, generator=torch.Generator().manual_seed(0)).bfloat16()
    mean[::2] = 0.0  # a pruned layer
    moments = ReadMoments(mean=mean, var=torch.full(mean.shape, size**2))
    generator = torch.Generator().manual_seed(1)
    noise = moments.noise(generator)
    for sign in (1, -1):
        rounded = (mean + sign * noise).to(torch.bfloat16)
        away = rounded.float() - mean.float()
        error = float(away.square().std()) / len(mean) ** 0.5
        assert float(away.square().mean()) == pytest.approx(size**2, abs=4 * error)
        assert error < 0.2 * size**2
        assert abs(float(away.mean())) < 4 * size / len(mean) ** 0.5
