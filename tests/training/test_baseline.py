import pytest
import torch
from pydantic import ValidationError
from torch import nn

from joulewise.data import Dataset, Split, load_digits
from joulewise.errors import DataError, InputError
from joulewise.models import build
from joulewise.training import TrainingSpec, accuracy, train
from joulewise.training.baseline import _schedule


@pytest.fixture(scope="module")
def digits():
    whole = load_digits()
    assert whole.train is not None
    return Dataset(
        name="digits", train=whole.train.subset(300), test=whole.test, classes=10, flips=False
    )


def fresh(digits, name="cnn", seed=0):
    return build(name, digits.input_shape, digits.classes, seed=seed)


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_seeds_in_same_weights_out(digits):
    spec = TrainingSpec(epochs=2, lr=0.1, seed=4)
    models = [fresh(digits), fresh(digits)]
    state = torch.random.get_rng_state()
    for model in models:
        train(model, digits, spec)
    assert all(map(torch.equal, weights(models[0]), weights(models[1])))
    assert torch.equal(torch.random.get_rng_state(), state)
    other = fresh(digits)
    train(other, digits, TrainingSpec(epochs=2, lr=0.1, seed=5))
    assert not all(map(torch.equal, weights(models[0]), weights(other)))


def test_dropout_is_seeded_too(digits):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
            nn.init.zeros_(self.layers[2].weight)
            nn.init.zeros_(self.layers[2].bias)

        def forward(self, x):
            return self.layers(x)

    models = [Net(), Net()]
    for model in models:
        train(model, digits, TrainingSpec(epochs=1, lr=0.1))
    assert all(map(torch.equal, weights(models[0]), weights(models[1])))


def test_it_learns(digits):
    model = fresh(digits)
    before = accuracy(model, digits.test)
    seen = []
    record = train(model, digits, TrainingSpec(epochs=8, lr=0.1), seen.append)
    assert record.test_accuracy == accuracy(model, digits.test)
    assert record.test_accuracy > max(0.8, before)
    assert [epoch.epoch for epoch in seen] == list(range(1, 9))
    assert record.history[-1].loss < record.history[0].loss
    assert record.train_images == 300


def test_bfloat16_learns_as_well(digits):
    model = fresh(digits)
    record = train(model, digits, TrainingSpec(epochs=8, lr=0.1, precision="bfloat16"))
    assert record.test_accuracy > 0.8
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_one_step_of_sgd_is_the_formula(digits):
    """Nesterov's first step is (1 + momentum) times plain SGD's, with decay on weights only."""
    torch_inputs = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    split = Split(inputs=torch_inputs, targets=torch.arange(8) % 3)
    data = Dataset(name="toy", train=split, test=split, classes=3, flips=False)
    model = nn.Linear(5, 3)
    weight, bias = (p.detach().clone().requires_grad_() for p in model.parameters())
    loss = nn.functional.cross_entropy(
        nn.functional.linear(torch_inputs, weight, bias), split.targets
    )
    slope_w, slope_b = torch.autograd.grad(loss, [weight, bias])
    spec = TrainingSpec(epochs=1, batch_size=8, lr=0.3, momentum=0.9, weight_decay=0.01, warmup=0.0)
    train(model, data, spec)
    expected_w = weight - 0.3 * 1.9 * (slope_w + 0.01 * weight)
    torch.testing.assert_close(model.weight, expected_w)
    torch.testing.assert_close(model.bias, bias - 0.3 * 1.9 * slope_b)


def test_the_schedule_rises_then_falls_to_zero():
    factors = [_schedule(100, 0.1)(step) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == 1.0
    assert factors[100] == pytest.approx(0.0)
    assert all(a >= b for a, b in zip(factors[10:], factors[11:], strict=False))


def test_a_model_without_matrices_or_without_biases(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    train(model, digits, TrainingSpec(epochs=1))


def test_a_last_batch_of_one_is_left_out(digits):
    assert digits.train is not None
    odd = Dataset(
        name="odd", train=digits.train.subset(33), test=digits.test, classes=10, flips=False
    )
    train(fresh(digits), odd, TrainingSpec(epochs=1, batch_size=32))


def test_data_without_a_training_split(digits):
    only_test = Dataset(name="x", train=None, test=digits.test, classes=10, flips=False)
    with pytest.raises(DataError, match="x has no training split"):
        train(fresh(digits), only_test, TrainingSpec(epochs=1))


def test_divergence_is_said(digits):
    with pytest.raises(InputError, match=r"the loss is .* in epoch \d+ at lr 100; try a lower lr"):
        train(fresh(digits, "mlp"), digits, TrainingSpec(epochs=5, lr=100.0))


@pytest.mark.parametrize(
    "bad", [{"epochs": 0}, {"lr": 0.0}, {"momentum": 1.0}, {"precision": "int8"}, {"rho": 0.1}]
)
def test_specs_refuse_what_is_out_of_range(bad):
    with pytest.raises(ValidationError):
        TrainingSpec(**bad)
