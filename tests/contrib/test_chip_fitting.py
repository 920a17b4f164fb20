import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from joulewise.contrib import fit_to_chip
from joulewise.data import Dataset, Split, load_digits
from joulewise.devices import SRAM, Chip, Crossbar
from joulewise.errors import DataError, InputError, ModelError, OperatingPointError, WeightsError
from joulewise.models import build, seeded
from joulewise.placement import Plan, place
from joulewise.simulation import simulate
from joulewise.training import TrainingMemory, reestimate_batchnorm

CHIP = Chip(seed=3)
KINDS = ["scales", "last", "all"]
MEMORIES = {
    "mask": (SRAM(bits=8), {"eta": 0.3}),
    "noise": (Crossbar(sigma=1e-6, clip=False), {"g_max": 25e-6}),
    # Other noise in each forward pass.
    "reads": (Crossbar(sigma=1e-6, read_noise=1e-6), {"g_max": 25e-6}),
}


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def split(size, seed):
    """Classes that no network tells apart without fault."""
    inputs = rand(size, 6, seed=seed)
    return Split(inputs=inputs, targets=(inputs[:, :3] + rand(size, 3, seed=10 + seed)).argmax(1))


DATA = Dataset(name="blobs", train=split(200, 1), test=split(300, 2), classes=3, flips=False)


def network():
    """With statistics, scales, dropout, a frozen weight and a layer in a mode of its own."""
    with seeded(0):
        model = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
        )
    model[0].weight.requires_grad_(False)
    model[3].eval()
    return model


def placed(model, memory="mask"):
    device, setting = MEMORIES[memory]
    return place(model, weights=device, example_inputs=rand(4, 6)), setting


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(model, before):
    return {name for name, now in model.state_dict().items() if not torch.equal(now, before[name])}


STATISTICS = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
FITTED = {
    "scales": ("0.bias", "1.weight", "1.bias", "4.bias"),
    "last": ("4.weight", "4.bias"),
    "all": ("0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias"),
}


# What is fitted.


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("kind", KINDS)
def test_only_what_was_asked_for_changes(kind, memory):
    model = network()
    placement, setting = placed(model, memory)
    before, generator = state(model), torch.random.get_rng_state()
    kept = model[4].bias.grad = torch.ones(3)
    own = [(p, p.data_ptr(), p.requires_grad) for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    record = fit_to_chip(placement, DATA, chip=CHIP, parameters=kind, at=setting)
    assert record.fitted == FITTED[kind]
    assert record.words == sum(before[name].numel() for name in FITTED[kind])
    assert changed(model, before) == {*FITTED[kind], *STATISTICS}
    assert [(p, p.data_ptr(), p.requires_grad) for p in model.parameters()] == own
    assert model[4].bias.grad is kept and torch.equal(kept, torch.ones(3))
    assert all(p.grad is None for p in list(model.parameters())[:-1])
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert record.steps == 12  # three times four batches of 64 and less


def test_the_statistics_are_those_that_the_chip_makes_and_then_stay():
    model, other = network(), network()
    placement, setting = placed(model)
    fit_to_chip(placement, DATA, chip=CHIP, at=setting)
    reestimate_batchnorm(TrainingMemory(placed(other)[0], chip=CHIP, at=setting), DATA.train)
    assert all(torch.equal(model.state_dict()[n], other.state_dict()[n]) for n in STATISTICS)


def test_a_layer_outside_the_memory_is_fitted_with_the_scales():
    """Tensors that are not placed lie in reliable memory."""
    model = network()
    placement = place(model, weights=SRAM(bits=8), exclude=["0.weight"])
    record = fit_to_chip(placement, DATA, chip=CHIP, at={"eta": 0.3})
    assert record.fitted == ("0.weight", *FITTED["scales"])


def test_scales_that_are_stored_are_not_fitted_as_scales():
    model = network()
    placement = place(model, weights=SRAM(bits=8), include=["*weight"])
    assert fit_to_chip(placement, DATA, chip=CHIP, at={"eta": 0.3}).fitted == (
        "0.bias",
        "1.bias",
        "4.bias",
    )


def last_of(model, **options):
    placement = place(model, weights=SRAM(bits=8))
    return fit_to_chip(
        placement, DATA, chip=CHIP, parameters="last", at={"eta": 0.3}, **options
    ).fitted


def test_the_last_layer_is_the_last_of_all_that_share_weights():
    """The first and the last share one, which is placed under the name of the first."""
    with seeded(0):
        model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6), nn.Linear(6, 6))
        model.append(nn.LayerNorm(6)).append(nn.Flatten())
    model[2].weight = model[0].weight
    model[4].forward = lambda x: x[:, :3]
    assert last_of(model) == ("0.weight", "2.bias")


def test_the_last_layer_has_its_bias_where_its_weight_is_parametrised():
    model = network()
    weight_norm(model[4])
    recipe = "4.parametrizations.weight.original"
    assert last_of(model) == ("4.bias", f"{recipe}0", f"{recipe}1")


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        with seeded(0):
            self.cells, self.head = kind(2, 5, batch_first=True), nn.Linear(5, 3)
        self.cudnn = []

    def forward(self, x):
        self.cudnn.append(torch.backends.cudnn.enabled)
        return self.head(self.cells(x.view(-1, 3, 2))[0][:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize(
    "where",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            ],
        ),
    ],
)
def test_recurrent_layers_are_fitted_without_cudnn(kind, where):
    """It refuses their backward pass in evaluation mode."""
    model = Recurrent(kind).to(where)
    before = torch.backends.cudnn.enabled
    placement = place(model, weights=SRAM(bits=8))
    fit_to_chip(placement, DATA, chip=CHIP, parameters="all", at={"eta": 0.3}, epochs=1)
    assert model.cudnn == [False] * 4  # evaluation is of a copy
    assert torch.backends.cudnn.enabled is before


def test_other_layers_keep_cudnn():
    model, found = network(), []
    placement, setting = placed(model)
    model.register_forward_pre_hook(lambda *_: found.append(torch.backends.cudnn.enabled))
    fit_to_chip(placement, DATA, chip=CHIP, at=setting)
    assert len(found) == 15 and set(found) == {torch.backends.cudnn.enabled}


# What comes of it.


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("kind", KINDS)
def test_accuracy_is_that_of_a_simulation_of_this_chip(kind, memory):
    model = network()
    placement, setting = placed(model, memory)

    def simulated():
        return simulate(placement, DATA.test, chips=1, seed=CHIP.seed, at=setting).mean

    before = simulated()
    record = fit_to_chip(placement, DATA, chip=CHIP, parameters=kind, at=setting)
    assert (record.before, record.after) == (before, simulated())
    assert record.before != record.after


def loss_on(placement, setting):
    inputs, targets = DATA.train.inputs, DATA.train.targets
    with torch.no_grad(), TrainingMemory(placement, chip=CHIP, at=setting):
        return F.cross_entropy(placement.model(inputs), targets).item()


@pytest.mark.parametrize("kind", KINDS)
def test_a_convex_loss_on_the_chip_falls_to_its_least(kind):
    """Cross entropy of a linear layer with added noise is convex in weight and bias."""
    with seeded(0):
        model = nn.Linear(6, 3)
    model.bias.data += torch.tensor([1.0, 0.0, -1.0])
    # A range of its own: what is added to the weights does not depend on them.
    device = Crossbar(sigma=2e-6, clip=False, limit=4.0)
    placement, setting = place(model, weights=device, example_inputs=rand(4, 6)), {"g_max": 25e-6}
    recipe = {"parameters": kind, "epochs": 150, "batch_size": 200, "lr": 0.05}
    before = loss_on(placement, setting)
    fit_to_chip(placement, DATA, chip=CHIP, **recipe, at=setting)
    with torch.no_grad(), TrainingMemory(placement, chip=CHIP, at=setting):
        read = model.weight.clone(), model.bias.clone()
    best = optimum(*read, kind)
    assert before > best + 0.1
    # The bias alone is found exactly; float32 sums 200 samples to about 1e-6.
    assert best - 1e-5 < loss_on(placement, setting) < best + 1e-3


def optimum(weight, bias, kind):
    """The least loss that these parameters allow, found in double precision by another method."""
    weight, bias = weight.double(), bias.double().requires_grad_()
    params = [bias] if kind == "scales" else [weight.requires_grad_(), bias]
    solver = torch.optim.LBFGS(params, max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        solver.zero_grad()
        loss = F.cross_entropy(DATA.train.inputs.double() @ weight.mT + bias, DATA.train.targets)
        loss.backward()
        return loss

    solver.step(closure)
    return closure().item()


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_adams_on_the_loss_of_this_chip(kind):
    """One step, written by hand: the first of Adam is the learning rate, by the gradient's sign."""
    model, twin = network(), network()
    placement, setting = placed(model)
    names = FITTED[kind]
    fit_to_chip(
        placement, DATA, chip=CHIP, parameters=kind, epochs=1, batch_size=200, lr=0.01, at=setting
    )
    other, _ = placed(twin)
    twin[0].weight.requires_grad_(True)
    reestimate_batchnorm(TrainingMemory(other, chip=CHIP, at=setting), DATA.train)
    with TrainingMemory(other, chip=CHIP, at=setting):
        F.cross_entropy(twin.eval()(DATA.train.inputs), DATA.train.targets).backward()
    for name in names:
        own = twin.get_parameter(name)
        sure = own.grad.abs() > 1e-5  # Adam's epsilon is 1e-8, and sums are in another order
        step = (model.get_parameter(name) - own)[sure]
        torch.testing.assert_close(step, -0.01 * own.grad.sign()[sure], rtol=2e-3, atol=1e-7)
        assert name == "0.bias" or sure.float().mean() > 0.5  # batch normalisation takes it away


def test_the_same_seed_is_the_same_network_and_another_is_not():
    ends = []
    for seed in (0, 0, 1):
        model = network()
        placement, setting = placed(model)
        fit_to_chip(placement, DATA, chip=CHIP, seed=seed, at=setting)
        ends.append(state(model))
    assert not changed(model, ends[2])
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not torch.equal(ends[0]["4.bias"], ends[2]["4.bias"])


@pytest.fixture(scope="module")
def trained():
    """The digits, a network that was trained on them, and its weights."""
    digits = load_digits()
    model = build("cnn", digits.input_shape, digits.classes, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for inputs, targets in [*digits.train.batches(64)] * 3:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return digits, model, state(model)


@pytest.mark.parametrize("kind", KINDS)
def test_it_makes_a_bad_chip_better(kind, trained):
    digits, model, weights = trained
    model.load_state_dict(weights)
    placement = place(model, weights=SRAM(bits=8))
    record = fit_to_chip(
        placement, digits, chip=Chip(seed=1), parameters=kind, epochs=1, at={"eta": 0.15}
    )
    # The difference of two shares of 599 images has a standard error below 0.029.
    assert record.after > record.before + 5 * 0.029


# Noise of reads.


def test_noise_of_reads_is_other_than_that_of_the_test(monkeypatch):
    uses = []
    read = Crossbar.read

    def listening(self, stored, point, chip):
        uses.append(chip.use)
        return read(self, stored, point, chip)

    monkeypatch.setattr(Crossbar, "read", listening)
    placement, setting = placed(network(), "reads")
    fit_to_chip(placement, DATA, chip=CHIP, at=setting)
    fitting = {use for use in uses if use > 1000}
    assert len(fitting) == 12 + 1  # and one batch of statistics
    assert set(uses) - fitting == {0}  # the test has one batch


# Interruption and refusals.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("when", [1, 4, 15])  # the test, a step, the test at the end
def test_after_an_exception_all_is_as_it_was(kind, error, when):
    model, calls = network(), []
    model.register_buffer("shown", torch.arange(3.0).expand(4, 3))  # cannot be written
    placement, setting = placed(model)
    before, modes = state(model), [m.training for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]

    def fail(module, inputs):
        calls.append(module)
        if len(calls) == when:
            raise error

    hook = model[4].register_forward_pre_hook(fail)
    with pytest.raises(error):
        fit_to_chip(placement, DATA, chip=CHIP, parameters=kind, at=setting)
    hook.remove()
    assert len(calls) == when
    assert not changed(model, before)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_not_finite_is_refused_and_all_is_as_it_was(kind):
    model = network()
    placement = place(model, weights=SRAM(bits=8))
    before = state(model)
    with torch.no_grad():
        model[4].bias.fill_(3e38)
        model[4].bias[0] = -3e38
    broken = state(model)
    with pytest.raises(InputError, match=r"NaN or infinite.* at lr 0\.0.*; try a lower lr"):
        fit_to_chip(placement, DATA, chip=CHIP, parameters=kind, at={"eta": 0.3})
    assert not changed(model, broken) and changed(model, before) == {"4.bias"}


@pytest.mark.parametrize("kind", ["scales", "all"])
def test_weights_that_the_last_step_breaks_are_noticed_and_all_is_as_it_was(kind):
    """The root's loss is finite where its slope is not."""
    with seeded(0):
        model = nn.Sequential(nn.Linear(6, 3), nn.Flatten())
    model[1].forward = lambda x: (0 * x).abs().sqrt()
    before = state(model)
    recipe = {"parameters": kind, "epochs": 1, "batch_size": 200}
    with pytest.raises(InputError, match=r"a weight became NaN or infinite at lr 0\.0.*; try a lo"):
        fit_to_chip(place(model, weights=SRAM(bits=8)), DATA, chip=CHIP, at={"eta": 0.3}, **recipe)
    assert not changed(model, before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, InputError, "epochs is 0; allowed: a whole number, 1 or more"),
        ({"epochs": 1.5}, InputError, "epochs is 1.5; allowed: a whole number"),
        ({"batch_size": 0}, InputError, "batch_size is 0; allowed: a whole number, 1 or more"),
        ({"lr": 0.0}, InputError, "lr is 0; allowed: above 0"),
        ({"lr": float("nan")}, InputError, "lr is nan; allowed: above 0"),
        ({"seed": -1}, InputError, "seed is -1; allowed: a whole number, 0 or more"),
        ({"seed": 1.5}, InputError, "seed is 1.5; allowed: a whole number"),
        ({"parameters": "first"}, InputError, "parameters is 'first'; allowed: 'scales' or 'last'"),
        ({"at": {"eta": 2.0}}, OperatingPointError, "eta is 2"),
        ({"at": None}, InputError, "at is None .*; allowed: knobs with values"),
        ({"at": {}}, OperatingPointError, "at, for 0.weight on a SRAM, is nothing; allowed: one"),
        ({"at": {"eta": 0.3, "v_dd": 0.7}}, OperatingPointError, "is eta and v_dd; allowed: one"),
        ({"at": Plan({})}, InputError, "0.weight is placed here, and the plan has no point"),
    ],
)
def test_what_is_out_of_range_is_refused(options, error, message):
    model = network()
    before, options = state(model), {"at": {"eta": 0.3}} | options
    with pytest.raises(error, match=message):
        fit_to_chip(place(model, weights=SRAM(bits=8)), DATA, chip=CHIP, **options)
    assert not changed(model, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["1.weight", "4.weight", "4.bias"])
def test_a_parameter_that_is_nan_before_is_refused_by_name(kind, name):
    model = network()
    model.get_parameter(name).data.view(-1)[:2] = float("nan")
    with pytest.raises(
        WeightsError, match=rf"^{name} is NaN or infinite in 2 of \d+; allowed: fin"
    ):
        fit_to_chip(
            place(model, weights=SRAM(bits=8)), DATA, chip=CHIP, parameters=kind, at={"eta": 0.3}
        )


def test_infinity_is_refused_where_it_would_be_fitted():
    model = network()
    model.register_parameter("mask", nn.Parameter(torch.tensor([0.0, -torch.inf])))
    placement = place(model, weights=SRAM(bits=8))
    fit_to_chip(placement, DATA, chip=CHIP, parameters="last", at={"eta": 0.3})
    with pytest.raises(WeightsError, match="mask is NaN or infinite in 1 of 2"):
        fit_to_chip(placement, DATA, chip=CHIP, at={"eta": 0.3})


def test_one_image_is_refused_where_statistics_are_to_be_found():
    one = Dataset(name="one", train=DATA.train.subset(1), test=DATA.test, classes=3, flips=False)
    model = network()
    before = state(model)
    with pytest.raises(DataError, match="the data is of batches of one sample; allowed: two"):
        fit_to_chip(place(model, weights=SRAM(bits=8)), one, chip=CHIP, at={"eta": 0.3})
    assert not changed(model, before)
    with seeded(0):
        plain = nn.Linear(6, 3)
    record = fit_to_chip(place(plain, weights=SRAM(bits=8)), one, chip=CHIP, at={"eta": 0.3})
    assert record.steps == 3


def test_a_model_with_nothing_to_fit_is_refused():
    with seeded(0):
        bare = nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False))
    message = "parameters is 'scales', and the model has neither scales nor biases outside of its"
    with pytest.raises(ModelError, match=message):
        fit_to_chip(place(bare, weights=SRAM(bits=8)), DATA, chip=CHIP, at={"eta": 0.3})
    activations = place(bare, activations=SRAM(bits=8), example_inputs=rand(4, 6))
    with pytest.raises(ModelError, match="parameters is 'last', and no weight is placed"):
        fit_to_chip(activations, DATA, chip=CHIP, parameters="last", at={"eta": 0.3})


def test_data_without_a_training_split_and_a_model_of_other_classes_are_refused():
    placement = place(network(), weights=SRAM(bits=8))
    test_only = Dataset(name="tests", train=None, test=DATA.test, classes=3, flips=False)
    with pytest.raises(DataError, match="tests has no training split; allowed: data with one"):
        fit_to_chip(placement, test_only, chip=CHIP, at={"eta": 0.3})
    four = Dataset(name="four", train=DATA.train, test=DATA.test, classes=4, flips=False)
    with pytest.raises(ModelError, match=r"the shape of the outputs is \(300, 3\); allowed: \(300"):
        fit_to_chip(placement, four, chip=CHIP, at={"eta": 0.3})


def test_the_record_is_frozen_plain_data():
    model = network()
    placement = place(model, weights=SRAM(bits=8))
    plan = placement.plan({"eta": torch.linspace(0.2, 0.9, 8)})
    record = fit_to_chip(placement, DATA, chip=CHIP, at=plan, epochs=1, lr=0.02)
    assert type(record).model_validate_json(record.model_dump_json()) == record
    assert (record.chip, record.lr, record.images, record.parameters) == (3, 0.02, 200, "scales")
    assert set(record.plan) == {"0.weight", "4.weight"} and len(record.plan["4.weight"]) == 8
    assert record.seconds > 0
    with pytest.raises(ValidationError):
        record.after = 1.0
