import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from joulewise.errors import ModelError
from joulewise.models import build
from joulewise.placement import call, fold_batchnorm


def generator():
    return torch.Generator().manual_seed(0)


def images(dtype=torch.float32):
    return torch.randn(4, 3, 16, 16, generator=generator()).to(dtype)


def trained(model):
    """Weights from a seed, and normalisations that are far from the identity."""
    random = generator()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.5, 0.5, generator=random)
    for norm in norms(model):
        with torch.no_grad():
            if norm.running_mean is not None:
                norm.running_mean.normal_(generator=random)
                norm.running_var.uniform_(0.5, 2, generator=random)
            if norm.affine:
                norm.weight.uniform_(0.5, 2, generator=random)
                norm.bias.normal_(generator=random)
    return model


def norms(model):
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return [module for module in model.modules() if isinstance(module, kinds)]


def fold(model, inputs, tolerance=1e-4):
    """Fold, check that the copy computes the same and that the model is as it was."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    kinds = [type(module) for module in model.modules()]
    folded = fold_batchnorm(model, inputs)
    assert [module.training for module in model.modules()] == modes
    assert [type(module) for module in model.modules()] == kinds
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not {p.data_ptr() for p in model.parameters()} & {
        p.data_ptr() for p in folded.parameters()
    }
    assert not any(module.training for module in folded.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in folded.modules())
    with torch.no_grad():
        actual, expected = call(folded, inputs), call(model.eval(), inputs)
    torch.testing.assert_close(
        actual, expected, rtol=0, atol=tolerance * float(expected.abs().max())
    )
    return folded


LAYERS = {
    "conv1d": (nn.Conv1d(3, 4, 3, bias=False), nn.BatchNorm1d(4), (2, 3, 9)),
    "conv2d": (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), (2, 3, 9, 9)),
    "conv3d": (nn.Conv3d(3, 4, 2), nn.BatchNorm3d(4), (2, 3, 5, 5, 5)),
    "depthwise": (nn.Conv2d(3, 6, 3, groups=3, bias=False), nn.BatchNorm2d(6), (2, 3, 9, 9)),
    "linear": (nn.Linear(5, 4), nn.BatchNorm1d(4), (3, 5)),
    "linear without bias": (nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4), (3, 5)),
    "not affine": (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), (2, 3, 9, 9)),
    "eps": (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.1), (2, 3, 9, 9)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_and_its_normalisation(kind):
    layer, norm, shape = LAYERS[kind]
    model = trained(nn.Sequential(layer, norm))
    assert not norms(fold(model, torch.randn(shape, generator=generator())))


@pytest.mark.parametrize("name", ["cnn", "vgg", "resnet8", "mobilenetv2"])
def test_networks_of_the_zoo_fold_completely(name):
    model = trained(build(name, (3, 16, 16), 5, seed=0))
    assert norms(model)
    assert not norms(fold(model, images()))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 0.05), (torch.float16, 0.01)]
)
def test_other_precisions(dtype, tolerance):
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).to(dtype)
    folded = fold(model, images(dtype), tolerance)
    assert not norms(folded) and folded[0].weight.dtype == dtype


STAY = {
    "before the layer": lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)),
    "an activation in between": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)
    ),
    "in place in between": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(4)
    ),
    "no running statistics": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)
    ),
    "a transposed convolution": lambda: nn.Sequential(
        nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4)
    ),
}


@pytest.mark.parametrize("kind", STAY)
def test_normalisations_that_stay(kind):
    assert len(norms(fold(trained(STAY[kind]()), images(), 0.0))) == 1


COMPUTED = {
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "pruned twice": lambda layer: prune.random_unstructured(
        prune.l1_unstructured(layer, "weight", 0.3), "weight", 0.3
    ),
    "pruned bias": lambda layer: prune.l1_unstructured(layer, "bias", 0.5),
    "weight normalisation": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "older weight normalisation": weight_norm,
    "older spectral normalisation": spectral_norm,
}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", COMPUTED)
def test_a_weight_that_is_computed_is_folded_as_its_value(kind):
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    COMPUTED[kind](model[0])
    model.eval()(images())  # weights of hooks are those of the last pass
    folded = fold(model, images())
    assert not norms(folded) and set(dict(folded.named_parameters())) == {"0.weight", "0.bias"}
    folded(images()).sum().backward()


@pytest.mark.parametrize("whole", [True, False])
def test_a_compiled_model_folds_uncompiled(whole):
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    if whole:
        model = torch.compile(model, backend="eager")
    else:
        model[0] = torch.compile(model[0], backend="eager")
    folded = fold(model, images())
    assert [type(module) for module in folded.modules()] == [nn.Sequential, nn.Conv2d, nn.Identity]


@pytest.mark.parametrize("place", ["parameter", "buffer"])
def test_a_sparse_tensor_is_refused_by_name(place):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    if place == "parameter":
        model[0].weight = nn.Parameter(torch.eye(4).to_sparse())
    else:
        model[0].register_buffer("weights", torch.eye(4).to_sparse())
    with pytest.raises(ModelError, match=r"^the layout of 0.weights? is torch.sparse_coo; allow"):
        fold_batchnorm(model, torch.ones(2, 4))


@pytest.mark.parametrize("positions", [4, 7])
def test_a_linear_layer_over_positions_is_not_what_the_normalisation_scales(positions):
    model = trained(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(positions)))
    inputs = torch.randn(3, positions, 5, generator=generator())
    assert len(norms(fold(model, inputs, 0.0))) == 1


class Wired(nn.Module):
    def __init__(self, wire):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.first = nn.BatchNorm2d(3)
        self.second = nn.BatchNorm2d(3)
        self.wire = wire

    def forward(self, inputs):
        return self.wire(self, inputs)


@pytest.mark.parametrize(
    "wire",
    [
        lambda m, x: (lambda made: m.first(made) + made)(m.conv(x)),
        lambda m, x: (lambda made: m.first(made) + m.second(made))(m.conv(x)),
    ],
    ids=["without its normalisation", "with another"],
)
def test_an_output_that_is_used_twice_is_refused(wire):
    model = trained(Wired(wire))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError, match="folding changes the output by .*; place the model unf"):
        fold_batchnorm(model, images())
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


@pytest.mark.parametrize(
    ("wire", "left"),
    [
        (lambda m, x: m.first(m.conv(m.second(m.conv(x)))), 2),
        (lambda m, x: m.first(m.first(m.conv(x))), 2),
        (lambda m, x: m.first(input=m.conv(input=x)), 1),
        (lambda m, x: m.conv(x), 2),
    ],
    ids=["layer called twice", "normalisation called twice", "keywords", "never called"],
)
def test_any_wiring(wire, left):
    assert len(norms(fold(trained(Wired(wire)), images()))) == left


def test_a_layer_under_two_paths_is_replaced_under_both():
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    twice = Wired(lambda m, x: m.block(x))
    twice.block, twice.also = model, model[0]
    folded = fold(twice, images())
    assert folded.also is folded.block[0]
    assert isinstance(folded.block[1], nn.Identity)


def test_tied_weights_fold_apart():
    model = trained(Wired(lambda m, x: m.first(m.other(m.conv(x)))))
    model.other = nn.Conv2d(3, 3, 3, padding=1)
    model.other.weight = model.conv.weight
    assert len(norms(fold(model, images()))) == 1


def test_classes_as_outputs():
    assert (
        len(norms(fold(trained(Wired(lambda m, x: m.first(m.conv(x)).argmax(1))), images()))) == 1
    )


def test_an_output_that_is_not_finite_is_refused():
    with pytest.raises(ModelError, match="the model's output is NaN or infinite"):
        fold_batchnorm(Wired(lambda m, x: m.first(m.conv(x)) / 0), images())


def test_a_model_without_normalisations_is_copied():
    model = nn.Linear(3, 2)
    folded = fold(model, torch.ones(2, 3), 0.0)
    assert folded is not model and torch.equal(folded.weight, model.weight)
