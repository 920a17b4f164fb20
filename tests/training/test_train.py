import dataclasses
import json
import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from joulewise.data import Dataset, Split, load_digits
from joulewise.devices import SRAM, Flip
from joulewise.errors import DataError, InputError, ModelError
from joulewise.models import build
from joulewise.optim import ASAM, SAM, SAMSON
from joulewise.placement import place
from joulewise.training import (
    TrainingMemory,
    TrainingRecord,
    TrainingSpec,
    _train,
    accuracy,
    augment,
    clip_weights,
    train,
)
from joulewise.training.recipe import schedule_of


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


def test_outputs_that_are_nan_are_wrong():
    rows = [[math.nan] * 3, [math.nan, 1, 2], [3, math.nan, 2], [0, -math.inf, math.nan]]
    model = nn.Linear(4, 3)
    model.forward = lambda x: torch.tensor(rows)[x[:, 0].long()]
    inputs = torch.arange(4.0)[:, None]
    of_class = [Split(inputs=inputs, targets=torch.full((4,), k)) for k in range(3)]
    assert [accuracy(model, split) for split in of_class] == [2 / 4, 0.0, 1 / 4]


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
    factors = [schedule_of(100, 0.1)(step) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == 1.0
    assert factors[100] == pytest.approx(0.0)
    assert all(a >= b for a, b in zip(factors[10:], factors[11:], strict=False))


@pytest.mark.parametrize(
    "model", [nn.Flatten(), nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)]
)
def test_a_model_with_nothing_to_train_is_refused(digits, model):
    message = "the model is without a parameter that requires a gradient; allowed: one or more"
    with pytest.raises(ModelError, match=message):
        train(model, digits, TrainingSpec(epochs=1))


def test_a_model_without_matrices_or_without_biases(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    train(model, digits, TrainingSpec(epochs=1))


def some(digits, count):
    return dataclasses.replace(digits, train=digits.train.subset(count))


@pytest.mark.parametrize(
    ("name", "count", "steps"), [("cnn", 33, 1), ("cnn", 34, 2), ("mlp", 33, 2)]
)
def test_a_last_batch_of_one_is_left_out_where_there_is_batch_normalisation(
    digits, monkeypatch, name, count, steps
):
    """And the schedule ends with the last step that is taken."""
    sizes, ends = [], []

    def listening(total, warmup):
        ends.append(total)
        return schedule_of(total, warmup)

    monkeypatch.setattr(_train, "schedule_of", listening)
    model = fresh(digits, name)
    model.register_forward_pre_hook(
        lambda module, inputs: sizes.append(len(inputs[0])) if module.training else None
    )
    train(model, some(digits, count), TrainingSpec(epochs=2, batch_size=32))
    assert sizes == [32, count - 32][:steps] * 2
    assert ends == [2 * steps]


def test_batches_of_one_train_without_batch_normalisation_and_are_refused_with_it(digits):
    model, few = fresh(digits, "mlp"), some(digits, 60)
    spec = TrainingSpec(epochs=3, batch_size=1, lr=0.01, augment=False)
    record = train(model, few, spec)
    assert record.history[-1].loss < record.history[0].loss / 2
    model = fresh(digits)
    before = weights(model)
    message = "batch_size is 1; allowed: 2 or more for a model with batch normalisation"
    with pytest.raises(InputError, match=message):
        train(model, few, spec)
    assert all(map(torch.equal, weights(model), before))


def test_one_sample_trains_without_batch_normalisation_and_is_refused_with_it(digits):
    model, one = fresh(digits, "mlp"), some(digits, 1)
    before = weights(model)
    train(model, one, TrainingSpec(epochs=1))
    assert not all(map(torch.equal, weights(model), before))
    message = "number of training samples is 1; allowed: two or more for a model with batch norm"
    with pytest.raises(DataError, match=message):
        train(fresh(digits), one, TrainingSpec(epochs=1))


def test_data_without_a_training_split(digits):
    only_test = Dataset(name="x", train=None, test=digits.test, classes=10, flips=False)
    with pytest.raises(DataError, match="x has no training split"):
        train(fresh(digits), only_test, TrainingSpec(epochs=1))


def test_divergence_is_said(digits):
    with pytest.raises(InputError, match=r"the loss is .* in epoch \d+ at lr 100; try a lower lr"):
        train(fresh(digits, "mlp"), digits, TrainingSpec(epochs=5, lr=100.0))


class Root(nn.Module):
    """Its loss is finite where its slope is not."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, x):
        return self.linear(x.flatten(1)).abs().sqrt()


def test_weights_that_the_last_step_breaks_are_noticed(digits):
    seen = []
    with pytest.raises(InputError, match=r"a weight is NaN or infinite in epoch 1 at lr 0\.1; try"):
        train(Root(), digits, TrainingSpec(epochs=1, batch_size=300, lr=0.1), seen.append)
    assert seen == []


@pytest.mark.parametrize(
    "bad",
    [
        *({"epochs": 0}, {"lr": 0.0}, {"momentum": 1.0}, {"precision": "int8"}, {"rho": 0.1}),
        *({"method": "adam"}, {"method": "sam", "rho": -0.1}, {"clip": 0.0}),
        *({"seed": -1}, {"seed": 2**63}),
    ],
)
def test_specs_refuse_what_is_out_of_range(bad):
    with pytest.raises(ValidationError):
        TrainingSpec(**bad)


METHODS = {"sam": SAM, "asam": ASAM, "samson2": SAMSON, "samsoninf": SAMSON}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rho", [None, 0.01])
def test_one_step_of_a_method_is_that_of_its_optimizer(method, rho):
    inputs = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    split = Split(inputs=inputs, targets=torch.arange(8) % 3)
    data = Dataset(name="toy", train=split, test=split, classes=3, flips=False)
    model, twin = build("mlp", (5,), 3, seed=0), build("mlp", (5,), 3, seed=0)
    kind = {"p": 2 if method == "samson2" else math.inf} if "samson" in method else {}
    kind |= {} if rho is None else {"rho": rho}
    optimizer = METHODS[method](twin.parameters(), torch.optim.SGD, lr=0.3, **kind)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(twin(inputs[order]), split.targets[order])
        loss.backward()
        return loss

    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    optimizer.step(closure)
    spec = TrainingSpec(
        **{"epochs": 1, "batch_size": 8, "lr": 0.3, "momentum": 0.0, "weight_decay": 0.0},
        **{"warmup": 0.0, "method": method, "rho": rho},
    )
    train(model, data, spec)
    plain = build("mlp", (5,), 3, seed=0)
    train(plain, data, spec.model_copy(update={"method": "sgd", "rho": None}))
    assert all(map(torch.equal, weights(model), weights(twin)))
    assert not all(map(torch.equal, weights(model), weights(plain)))


@pytest.mark.parametrize("method", ["sgd", *METHODS])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("through", [False, True])
def test_every_method_learns_in_either_precision_through_a_memory_too(
    digits, method, precision, through
):
    model = fresh(digits, "mlp")
    batch, _ = next(digits.test.batches(32))
    placement = place(model, weights=SRAM(bits=8), activations=SRAM(bits=8), example_inputs=batch)
    memory = TrainingMemory(placement, at={"eta": 0.5}) if through else None
    spec = TrainingSpec(epochs=10, lr=0.05, augment=False, precision=precision, method=method)
    record = train(model, digits, spec, memory=memory)
    assert record.test_accuracy > 0.8
    if memory is not None:
        assert memory.steps == 10 * 3
        assert record.memory == memory.describe()


def test_a_seed_is_a_run_and_the_memory_is_in_it(digits):
    found = {}
    for name, bits, eta in (("plain", 0, 0), ("fine", 16, 1.0), ("a", 8, 0.3), ("b", 8, 0.3)):
        model = fresh(digits, "mlp")
        memory = (
            TrainingMemory(place(model, weights=SRAM(bits=bits)), at={"eta": eta}) if bits else None
        )
        train(model, digits, TrainingSpec(epochs=1, lr=0.05), memory=memory)
        found[name] = torch.cat([w.flatten() for w in weights(model)])
    assert torch.equal(found["a"], found["b"])
    fine, struck = ((found[name] - found["plain"]).norm() for name in ("fine", "a"))
    assert 0 < fine < struck / 10


def test_weights_are_clipped_after_the_step():
    inputs = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    split = Split(inputs=inputs, targets=torch.arange(8) % 3)
    data = Dataset(name="toy", train=split, test=split, classes=3, flips=False)
    clipped, free = build("mlp", (5,), 3, seed=0), build("mlp", (5,), 3, seed=0)
    spec = TrainingSpec(epochs=1, batch_size=8, lr=0.3)
    train(clipped, data, spec.model_copy(update={"clip": 1.5}))
    train(free, data, spec)
    assert not all(map(torch.equal, weights(clipped), weights(free)))
    clip_weights(free, deviations=1.5)
    assert all(map(torch.equal, weights(clipped), weights(free)))


def test_records_say_what_was_trained_through(digits):
    model = fresh(digits, "mlp")
    memory = TrainingMemory(place(model, weights=SRAM(bits=8)), at={"eta": 0.5}, seed=7)
    spec = TrainingSpec(epochs=1, lr=0.05, method="samson2", rho=0.1, clip=2.5)
    record = train(model, digits, spec, memory=memory)
    assert TrainingRecord.model_validate_json(record.model_dump_json()) == record
    assert json.loads(record.model_dump_json())["memory"]["seed"] == 7


def test_the_memory_of_another_model_is_refused(digits):
    memory = TrainingMemory(place(fresh(digits), weights=SRAM(bits=8)), at={"eta": 0.5})
    with pytest.raises(InputError, match="memory is that of another model"):
        train(fresh(digits), digits, TrainingSpec(epochs=1), memory=memory)


def test_divergence_through_a_memory_is_said(digits):
    model = fresh(digits, "mlp")
    memory = TrainingMemory(place(model, weights=SRAM(bits=8, fault=Flip())), at={"eta": 0.1})
    with pytest.raises(InputError, match=r"in epoch \d+ at lr 100"):
        train(model, digits, TrainingSpec(epochs=5, lr=100.0), memory=memory)


# Augmentation.


def images(count=200):
    return torch.arange(1, 1 + count * 2 * 6 * 6, dtype=torch.float32).view(count, 2, 6, 6)


def shifted(image, rows, columns):
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
    return padded[:, rows : rows + 6, columns : columns + 6]


def test_each_result_is_a_shift_of_its_image_perhaps_mirrored():
    inputs = images()
    outputs = augment(inputs, padding=2, flips=True, generator=torch.Generator().manual_seed(0))
    assert outputs.shape == inputs.shape
    kinds = set()
    for before, after in zip(inputs, outputs, strict=True):
        found = [
            (rows, columns, mirrored)
            for rows in range(5)
            for columns in range(5)
            for mirrored in (False, True)
            if torch.equal(
                after,
                shifted(before, rows, columns).flip(2)
                if mirrored
                else shifted(before, rows, columns),
            )
        ]
        assert len(found) == 1
        kinds.add(found[0])
    assert len(kinds) > 40  # nearly all of the 50 kinds in 200 draws


def test_without_flips_and_padding_nothing_changes():
    inputs = images(5)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(augment(inputs, padding=0, flips=False, generator=generator), inputs)


def test_bytes_stay_bytes_and_the_seed_decides():
    inputs = images(9).to(torch.uint8)
    first, again, other = (
        augment(inputs, padding=2, flips=True, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
