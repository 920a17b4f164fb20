"""The vectors of a product, times the matrix of a product, are the outputs of the layer."""

import pytest
import torch
from torch import nn

from joulewise.devices import Crossbar
from joulewise.errors import InputError, ModelError, TableError
from joulewise.placement import energy, place, with_accesses
from joulewise.simulation import simulate


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def matrix_inputs(model, inputs, **choice):
    placement = place(model, weights=Crossbar(), example_inputs=inputs, **choice)
    return {tensor.name: tensor.traffic.matrix_inputs for tensor in placement.placed}


def outputs(product, largest):
    return torch.einsum("sgk,gnk->sgn", product.inputs, product.matrix(product.weight)) * largest


LAYERS = {
    "linear": (nn.Linear(6, 4, bias=False), (3, 6)),
    "linear with a bias": (nn.Linear(6, 4), (3, 6)),
    "square": (nn.Linear(5, 5, bias=False), (3, 5)),
    "tokens": (nn.Linear(6, 4, bias=False), (3, 7, 6)),
    "1-d": (nn.Conv1d(3, 4, 3, padding=1), (2, 3, 9)),
    "2-d": (nn.Conv2d(3, 4, 3, stride=2, padding=1), (2, 3, 8, 6)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2, dilation=2), (2, 4, 9, 8)),
    "by channel": (nn.Conv2d(4, 4, (3, 2), groups=4, padding=(0, 1)), (2, 4, 6, 7)),
    "3-d": (nn.Conv3d(2, 3, 2), (2, 2, 4, 3, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_vectors_times_matrix_are_the_outputs(name):
    layer, shape = LAYERS[name]
    x = rand(*shape)
    ((product,),) = matrix_inputs(layer, x).values()
    out = layer(x).detach()
    if layer.bias is not None:
        bias = layer.bias.detach()
        out = out - (bias if isinstance(layer, nn.Linear) else bias.view(-1, *(1,) * (x.ndim - 2)))
    last = out if isinstance(layer, nn.Linear) else out.movedim(1, -1)
    wanted = last.reshape(-1, last.shape[-1])
    got = outputs(product, x.abs().max()).flatten(1)
    some = torch.linspace(0, len(wanted) - 1, len(got), dtype=torch.float64).round().long()
    torch.testing.assert_close(got, wanted[some], atol=1e-5, rtol=1e-5)
    assert product.uses == len(wanted) / len(x)
    assert float(product.inputs.abs().max()) <= 1


@pytest.mark.parametrize("name", LAYERS)
def test_columns_are_output_channels(name):
    layer, shape = LAYERS[name]
    ((product,),) = matrix_inputs(layer, rand(*shape)).values()
    columns = product.channels()
    first = torch.arange(len(layer.weight)).reshape(-1, *(1,) * (layer.weight.ndim - 1))
    matrix = product.matrix(first.expand(layer.weight.shape))
    assert torch.equal(columns[..., None].expand(matrix.shape), matrix)
    assert sorted(columns.flatten().tolist()) == list(range(len(layer.weight)))


def test_a_transposed_convolution():
    layer = nn.ConvTranspose1d(4, 6, 3, stride=3, groups=2, bias=False)
    x = rand(2, 4, 5)
    ((product,),) = matrix_inputs(layer, x).values()
    found = outputs(product, x.abs().max())  # [positions, groups, outputs * taps]
    apart = found.reshape(2, 5, 6, 3)  # the taps of one position touch no other's
    torch.testing.assert_close(apart.permute(0, 2, 1, 3).reshape(2, 6, 15), layer(x).detach())
    assert product.rows_first
    assert product.channels() is None


def test_a_square_weight_on_either_side():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(rand(5, 5))

        def forward(self, x):
            return x @ self.weight

    x = rand(3, 5, seed=1)
    model = Turned()
    ((product,),) = matrix_inputs(model, x).values()
    assert torch.equal(product.matrix(model.weight.detach())[0], model.weight.detach().T)
    torch.testing.assert_close(outputs(product, x.abs().max())[:, 0], model(x).detach())


def test_many_vectors_are_sampled_all_over():
    layer = nn.Conv2d(1, 2, 1, bias=False)
    x = torch.arange(10_000.0).reshape(4, 1, 50, 50)
    ((product,),) = matrix_inputs(layer, x).values()
    assert len(product.inputs) == 256
    assert product.uses == 2500
    places = (product.inputs[:, 0, 0].double() * product.largest).round()
    parts = (places + 0.5) / (10_000 / 256)  # a place on the border of two parts is in either
    assert float((parts - torch.arange(256) - 0.5).abs().max()) < 0.52


@pytest.mark.parametrize("batch", [85, 255, 256, 510])
def test_a_sample_is_not_in_step_with_the_picture(batch):
    """Evenly spaced positions of 255 pictures would be their corners alone."""
    layer = nn.Conv2d(1, 2, 3, padding=1, bias=False)
    x = torch.zeros(batch, 1, 8, 8)
    x[:, :, 2:6, 2:6] = rand(batch, 1, 4, 4)
    ((product,),) = matrix_inputs(layer, x).values()
    windows = nn.functional.unfold(x, 3, padding=1).square().mean() / product.largest**2
    # 256 vectors of nine: a mean square of Gaussians, most of them not there.
    assert float(product.inputs.square().mean()) == pytest.approx(float(windows), rel=0.35)


def test_a_slice_of_a_weight_is_the_slice():
    class Sliced(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(rand(5, 6))

        def forward(self, x):
            left = nn.functional.linear(x[:, :4], self.weight[:, :4])
            return left + nn.functional.linear(x[:, 4:], self.weight[:, 4:])

    x, model = rand(3, 6), Sliced()
    found = matrix_inputs(model, x)["weight"]
    weight = model.weight.detach()
    assert all(
        torch.equal(f.matrix(weight)[0], w) for f, w in zip(found, weight.split(4, 1), strict=True)
    )
    total = sum(outputs(f, f.largest)[:, 0] for f in found)
    torch.testing.assert_close(total, model(x).detach())


def test_parameters_in_one_buffer():
    flat = rand(28)
    model = nn.Linear(6, 4)
    model.bias.data, model.weight.data = flat[:4], flat[4:].view(4, 6)
    ((product,),) = matrix_inputs(model, rand(3, 6)).values()
    assert torch.equal(product.matrix(model.weight.detach())[0], model.weight.detach())


def test_a_frozen_layer_on_turned_tokens():
    model = nn.Linear(6, 4).requires_grad_(requires_grad=False)

    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = model

        def forward(self, x):
            return self.layer(x.transpose(1, 2))

    x = rand(3, 6, 5)
    ((product,),) = matrix_inputs(Turned(), x).values()
    assert product.uses == 5
    assert torch.equal(product.matrix(model.weight)[0], model.weight)


def test_two_weights_multiplied_with_each_other_are_counted_once():
    class LowRank(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(rand(2, 6)), nn.Parameter(rand(4, 2))

        def forward(self, x):
            return nn.functional.linear(x, self.b @ self.a)

    placement = place(LowRank(), weights=Crossbar(), example_inputs=rand(3, 6))
    assert placement.macs == 24  # the product with the inputs; a product of weights has none


def test_uses_with_small_inputs_cost_less():
    class Twice(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.layer, self.scale = nn.Linear(6, 6, bias=False), scale

        def forward(self, x):
            return self.layer(x), self.layer(x * self.scale)

    def joules(scale):
        model = Twice(scale)
        model.layer.weight.data = rand(6, 6)
        placement = place(model, weights=Crossbar(), example_inputs=rand(3, 6))
        return float(energy(placement, at=placement.plan({"g_max": 1e-3})).memory_total_j)

    quiet = place(nn.Linear(6, 6), weights=Crossbar(), example_inputs=torch.zeros(3, 6))
    converters = float(energy(quiet, at=quiet.plan({"g_max": 1e-3})).memory_total_j)
    once = joules(1e-6) - 2 * converters
    assert joules(1.0) - 2 * converters == pytest.approx(2 * once)


def test_inputs_that_are_empty_or_not_finite():
    class Some(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(x), self.a(x[:0])

    with pytest.raises(ModelError, match=r"a\.weight is in no product"):
        place(Some(), weights=Crossbar(), example_inputs=rand(3, 4))
    with pytest.raises(ModelError, match="multiplied with is NaN or infinite"):
        place(nn.Linear(4, 4), weights=Crossbar(), example_inputs=torch.full((3, 4), float("nan")))


def test_activations_are_not_for_memories_that_compute():
    with pytest.raises(InputError, match="activations is Crossbar"):
        place(nn.Linear(4, 4), activations=Crossbar(), example_inputs=rand(3, 4))


def test_accesses_of_a_memory_that_computes_are_refused(tmp_path):
    path = tmp_path / "accesses.csv"
    path.write_text("name,reads,writes\nweight,100,0\n")
    placement = place(nn.Linear(4, 4), weights=Crossbar(), example_inputs=rand(3, 4))
    with pytest.raises(
        TableError, match="a tensor of the access counts is weight; allowed: a tensor"
    ):
        with_accesses(placement, path)


def test_parts_of_a_weight_and_several_uses():
    attention = nn.MultiheadAttention(8, 2, batch_first=True)

    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def forward(self, x):
            return self.attention(x, x.flip(1), x.flip(1))[0]

    found = matrix_inputs(Crossed(), rand(2, 5, 8))
    parts = found["attention.in_proj_weight"]  # one for each of queries, keys and values
    assert [product.uses for product in parts] == [5, 5, 5]
    weight = attention.in_proj_weight.detach()
    for product, part in zip(parts, weight.chunk(3), strict=True):
        assert torch.equal(product.matrix(weight)[0], part)
    shared = nn.Linear(4, 4)
    twice = matrix_inputs(nn.Sequential(shared, nn.ReLU(), shared), rand(3, 4))
    assert [product.uses for product in twice["0.weight"]] == [1, 1]


def test_what_is_computed_in_memory_is_no_arithmetic():
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    placement = place(model, weights=Crossbar(), example_inputs=rand(2, 6), exclude=["2.weight"])
    assert placement.macs == 12
    spent = energy(placement, at=placement.plan({"g_max": 25e-6}))
    assert spent.arithmetic_j == pytest.approx(12 * 0.3e-12)


def test_an_embedding_is_refused_by_name():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2))
    with pytest.raises(ModelError, match=r"0\.weight is in no product .* exclude '0\.weight'"):
        place(model, weights=Crossbar(), example_inputs=torch.tensor([[1, 2]]))


def test_fresh_noise_differs_between_passes_and_a_chip_repeats():
    model = nn.Linear(6, 4)
    data = [(rand(3, 6), None), (rand(3, 6), None)]  # the same inputs in both batches
    placement = place(model, weights=Crossbar(read_noise=1e-6), example_inputs=data[0][0])
    both = simulate(placement, data, at={"g_max": 25e-6}, chips=3, seed=5)
    first = simulate(placement, data[:1], at={"g_max": 25e-6}, chips=3, seed=5)
    again = simulate(placement, data, at={"g_max": 25e-6}, chips=3, seed=5)
    assert both.mse == again.mse
    assert all(a != b for a, b in zip(both.mse, first.mse, strict=True))
    still = place(model, weights=Crossbar(sigma=1e-6), example_inputs=data[0][0])
    both = simulate(still, data, at={"g_max": 25e-6}, chips=3, seed=5)
    first = simulate(still, data[:1], at={"g_max": 25e-6}, chips=3, seed=5)
    assert both.mse == pytest.approx(first.mse)
