"""Counts against hand calculation."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence

from joulewise.devices import SRAM
from joulewise.errors import InputError, ModelError
from joulewise.models import seeded
from joulewise.placement import place
from joulewise.placement.tracing import layer_inputs
from language_models import mixtral


def rand(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def reads(model, inputs, **choice):
    placement = place(model, weights=SRAM(), example_inputs=inputs, **choice)
    return {tensor.name: tensor.traffic.reads for tensor in placement.placed}


def macs(model, inputs):
    return place(model, weights=SRAM(), example_inputs=inputs).macs


class Function(nn.Module):
    """A model from parts and a function of them and the inputs."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = forward

    def forward(self, *inputs):
        return self.function(self, *inputs)


def parameter(*shape):
    return nn.Parameter(rand(*shape))


SELF_ATTENTION = Function(
    lambda m, x: m.attend(x, x, x, need_weights=False)[0],
    attend=nn.MultiheadAttention(8, 2, batch_first=True),
)
# Projections in and out; then scores and weighted values for each of 2 heads of 4 features.
ATTENTION = 5 * 8 * 24 + 5 * 8 * 8 + 2 * (2 * 5 * 5 * 4)

MACS = {
    "linear": (nn.Linear(6, 4), (6,), 24),
    "linear over positions": (nn.Linear(6, 4), (7, 6), 7 * 24),
    "convolution": (nn.Conv2d(3, 4, 3), (3, 8, 8), 4 * 6 * 6 * 27),
    "padding": (nn.Conv2d(3, 4, 3, padding=1), (3, 8, 8), 4 * 8 * 8 * 27),
    "stride": (nn.Conv2d(3, 4, 3, stride=2), (3, 9, 9), 4 * 4 * 4 * 27),
    "groups": (nn.Conv2d(4, 6, 3, groups=2), (4, 8, 8), 6 * 6 * 6 * 18),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (4, 8, 8), 8 * 6 * 6 * 9),
    "1-d dilated": (nn.Conv1d(4, 6, 3, stride=2, dilation=2), (4, 20), 6 * 8 * 12),
    "3-d": (nn.Conv3d(2, 3, 2), (2, 5, 5, 5), 3 * 64 * 16),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 5, 5), 4 * 25 * 3 * 9),
    "channels last": (
        nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last),
        (3, 8, 8),
        4 * 6 * 6 * 27,
    ),
    "attention": (SELF_ATTENTION, (5, 8), ATTENTION),
    "encoder": (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        (5, 8),
        ATTENTION + 2 * 5 * 8 * 16,
    ),
    "functional attention": (
        Function(lambda m, x: F.scaled_dot_product_attention(x, x, x @ m.w), w=parameter(8, 8)),
        (2, 5, 8),
        2 * 5 * 64 + 2 * 2 * 5 * 5 * 8,
    ),
    "lstm": (nn.LSTM(6, 5, batch_first=True), (7, 6), 7 * 4 * 5 * (6 + 5)),
    "gru": (nn.GRU(6, 5, batch_first=True), (7, 6), 7 * 3 * 5 * (6 + 5)),
    "bidirectional rnn": (
        nn.RNN(6, 5, batch_first=True, bidirectional=True),
        (7, 6),
        2 * 7 * 5 * (6 + 5),
    ),
    "called twice": (Function(lambda m, x: m.f(m.f(x)), f=nn.Linear(4, 4)), (4,), 32),
    "parametrised": (parametrizations.weight_norm(nn.Linear(6, 4)), (6,), 24),
    # The product of two weights is worked out once, whatever the batch.
    "factorised": (
        Function(lambda m, x: x @ (m.a @ m.b), a=parameter(6, 2), b=parameter(2, 4)),
        (6,),
        6 * 2 * 4 + 24,
    ),
}


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("kind", MACS)
def test_macs_per_inference_whatever_the_batch(kind, batch):
    model, shape, expected = MACS[kind]
    assert macs(model, rand(batch, *shape)) == pytest.approx(expected, rel=1e-12)


def test_macs_of_a_bilinear_layer():
    assert macs(nn.Bilinear(4, 5, 3), (rand(2, 4), rand(2, 5))) == 60


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_weights_are_read_once_by_each_use(batch):
    model = Function(
        lambda m, x: F.linear(m.twice(m.twice(m.once(x))), m.free),
        once=nn.Linear(6, 4),
        twice=nn.Linear(4, 4),
        free=parameter(3, 4),
    )
    assert reads(model, rand(batch, 6)) == {"once.weight": 24, "twice.weight": 32, "free": 12}


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_recurrent_weight_is_read_at_each_step(batch):
    expected = {"weight_ih_l0": 120, "weight_hh_l0": 7 * 100}
    assert reads(nn.LSTM(6, 5, batch_first=True), rand(batch, 7, 6)) == expected


def test_a_part_of_a_weight_is_a_part_of_the_reads():
    # Cross attention projects queries with one third of the weight, keys and values with the rest.
    model = Function(
        lambda m, x, y: m.attend(x, y, y, need_weights=False)[0],
        attend=nn.MultiheadAttention(8, 2, batch_first=True),
    )
    found = reads(model, (rand(2, 3, 8), rand(2, 5, 8)))
    assert found == {"attend.in_proj_weight": 192, "attend.out_proj.weight": 64}


def test_a_part_far_into_a_strided_parameter_is_seen():
    model = Function(lambda m, x: x @ m.w[3:, :], w=nn.Parameter(rand(4, 12)[:, ::4]))
    assert reads(model, rand(2, 1)) == {"w": 3}


class Language(nn.Module):
    """Tokens and positions; the head is the token table."""

    def __init__(self, positions):
        super().__init__()
        self.tokens, self.places = nn.Embedding(20, 8), nn.Embedding(16, 8)
        self.positions = positions

    def forward(self, tokens):
        hidden = self.tokens(tokens) + self.places(self.positions(tokens))
        return F.linear(hidden, self.tokens.weight)


@pytest.mark.parametrize("batch", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "positions",
    [
        lambda t: torch.arange(t.shape[1]),
        lambda t: torch.arange(t.shape[1])[None],
        lambda t: torch.arange(t.shape[1])[None].expand(len(t), -1),
        lambda t: torch.arange(t.shape[1]).repeat(len(t), 1),
        lambda t: torch.ones_like(t).cumsum(1),
    ],
    ids=["row", "one row", "expanded", "repeated", "from the tokens"],
)
def test_an_embedding_reads_the_rows_that_are_looked_up(positions, batch):
    found = reads(Language(positions), torch.zeros(batch, 8, dtype=torch.long))
    assert found == {"tokens.weight": 8 * 8 + 20 * 8, "places.weight": 8 * 8}


def test_an_embedding_bag_too():
    assert reads(nn.EmbeddingBag(20, 4), torch.zeros(3, 5, dtype=torch.long)) == {"weight": 20}


def activations(model, inputs, **choice):
    placement = place(model, weights=SRAM(), activations=SRAM(), example_inputs=inputs, **choice)
    return {t.name: t for t in placement.placed if t.role == "activation"}


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_activation_words_per_inference(batch):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    inputs = rand(batch, 3, 8, 8)
    inputs[-1, 0, 0, 0] = -7
    found = activations(model, inputs)
    assert {name: t.shape for name, t in found.items()} == {
        "0:input": (3, 8, 8),
        "3:input": (144,),
    }
    for tensor in found.values():
        assert tensor.traffic.reads == tensor.traffic.writes == tensor.words
    assert found["0:input"].limit == 7


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_several_calls_and_rows_of_a_sample_add_up(batch):
    model = Function(
        lambda m, x: m.f(x.flatten(0, 1)).sum() + m.f(4 * x) + m.f(x[:, 0])[:, None],
        f=nn.Linear(6, 4),
    )
    (tensor,) = activations(model, rand(batch, 7, 6)).values()
    assert tensor.shape == (7, 6)
    assert tensor.traffic.reads == tensor.traffic.writes == (7 + 7 + 1) * 6
    assert tensor.limit == pytest.approx(4 * float(rand(batch, 7, 6).max()))


def test_an_activation_of_zeros_has_some_range():
    (tensor,) = activations(nn.Linear(3, 2), torch.zeros(2, 3)).values()
    assert tensor.limit == 1.0


def test_only_placed_activations_are_looked_at():
    model = Function(lambda m, x: torch.func.vmap(m.f)(x), f=nn.Linear(3, 4))
    assert macs(model, rand(2, 3)) == 12
    nan = Function(lambda m, x: m.f(x / 0 * 0), f=nn.Linear(3, 4))
    assert reads(nan, rand(2, 3)) == {"f.weight": 12}
    assert not activations(nn.Sequential(nn.Linear(3, 3), nan), rand(2, 3), exclude=["*:input"])


def refused(model, inputs, message, remedy):
    with pytest.raises(ModelError, match=message) as error:
        activations(model, inputs)
    assert f"exclude '{remedy}'" in str(error.value)
    assert remedy not in activations(model, inputs, exclude=[remedy])


def test_the_first_layer_with_a_nan_is_named():
    class Poison(nn.Module):
        def forward(self, inputs):
            return inputs * torch.nan

    model = nn.Sequential(nn.Linear(3, 3), Poison(), nn.Linear(3, 3), nn.Linear(3, 3))
    message = "2:input is NaN or infinite in the traced pass; allowed: finite ones"
    with pytest.raises(ModelError, match=message):
        activations(model, rand(2, 3))
    with pytest.raises(ModelError, match="0:input is NaN or infinite"):
        activations(nn.Sequential(nn.Linear(3, 3)), torch.tensor([[1, torch.inf, 2]]))


@pytest.mark.parametrize("features", [7, 3])
def test_a_first_axis_that_is_not_the_batch_is_refused(features):
    model = Function(lambda m, x: m.f(x.T).T, f=nn.Linear(2, 4))
    message = rf"the shape of f:input is \({features}, 2\); allowed: a first axis that is a mul"
    refused(model, rand(2, features), message, "f:input")


def test_the_sequence_first_is_refused():
    model = Function(lambda m, x: m.f(x.transpose(0, 1))[0].transpose(0, 1), f=nn.GRU(6, 4))
    refused(model, rand(2, 4, 6), "f:input is laid out with the sequence first", "f:input")


def test_a_recurrent_state_is_refused():
    model = Function(
        lambda m, x: m.f(x, x.new_zeros(2, 2, 4))[0], f=nn.GRU(6, 4, 2, batch_first=True)
    )
    refused(model, rand(2, 4, 6), "f:input1 is a recurrent state", "f:input1")


def test_a_packed_sequence_is_refused():
    def forward(m, x, lengths):
        return m.f(pack_padded_sequence(x, lengths, batch_first=True))[1][0]

    model = Function(forward, f=nn.GRU(6, 4, batch_first=True))
    refused(model, (rand(2, 4, 6), torch.tensor([4, 2])), "f:input is a packed seq", "f:input")
    # Six steps in all, shared by two samples.
    assert macs(model, (rand(2, 4, 6), torch.tensor([4, 2]))) == 6 * 3 * 4 * (6 + 4) / 2


def test_a_causal_mask_is_refused():
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = Function(lambda m, x: m.layer(x, src_mask=mask), layer=layer)
    assert len(reads(model, rand(3, 5, 8))) == 4
    options = ["layer.self_attn.out_proj:input", "layer.self_attn:input1"]
    for batch, message in ((3, r"input1 is \(5, 5\)"), (5, "input1 is NaN or infinite")):
        with pytest.raises(ModelError, match=message):
            activations(model, rand(batch, 5, 8), exclude=options[:1])
        assert len(activations(model, rand(batch, 5, 8), exclude=options)) == 3


def test_a_batch_of_none_is_refused():
    with pytest.raises(InputError, match="the batch is empty"):
        macs(nn.Linear(3, 2), torch.ones(0, 3))


def test_a_batch_of_one():
    placement = place(nn.Linear(3, 2), activations=SRAM(), example_inputs=torch.ones(1, 3))
    assert placement.macs == 6 and placement.placed[0].shape == (3,)


def test_inference_mode_counts_alike():
    inputs = rand(2, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    expected = macs(model, inputs), reads(model, inputs)
    with torch.inference_mode():
        assert (macs(model, inputs), reads(model, inputs)) == expected
        fresh = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    assert (macs(fresh, inputs), reads(fresh, inputs)) == expected


def test_tracing_leaves_the_model_and_torch_as_they_were():
    model = nn.Sequential(nn.Embedding(5, 3, max_norm=0.1), nn.Linear(3, 2)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    onednn = torch._C._get_mkldnn_enabled()
    place(model, weights=SRAM(), activations=SRAM(), example_inputs=torch.tensor([1, 2]))
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert all(m.training and not m._forward_pre_hooks for m in model.modules())
    assert torch._C._get_mkldnn_enabled() is onednn and torch.is_grad_enabled()


def test_the_inputs_of_a_layer_are_distinct_and_in_order():
    a, b, ids = torch.ones(2), torch.zeros(2), torch.ones(2, dtype=torch.long)
    found = layer_inputs("f", (b, [a, b], ids), {"k": a, "l": a + 1})
    assert list(found) == ["f:input", "f:input1", "f:input2"]
    assert found["f:input"] is b and found["f:input1"] is a


@pytest.mark.parametrize("experts", ["grouped_mm", "batched_mm", "eager"])
def test_the_experts_that_are_chosen_are_read(experts):
    with seeded(0):
        model = mixtral(experts)
    ids = torch.randint(53, (1, 2), generator=torch.Generator().manual_seed(1))
    chosen = []
    for layer in model.model.layers:
        layer.mlp.experts.register_forward_pre_hook(lambda _, args: chosen.append(args[1]))
    with torch.no_grad():
        model(input_ids=ids)
    found = place(model, weights=SRAM(), example_inputs={"input_ids": ids})
    shares = {p.name: p.traffic.reads / p.words for p in found.placed}
    for layer, index in enumerate(chosen[:2]):
        share = len(index.unique()) / 4
        for name in ("gate_up_proj", "down_proj"):
            assert shares[f"model.layers.{layer}.mlp.experts.{name}"] == share
    projections, routing, scores_and_sums = 16 * (16 + 8 + 8 + 16), 4 * 16, 2 * 2 * 16
    expert = 16 * 48 + 24 * 16
    layer = projections + routing + scores_and_sums + 2 * expert  # for each of two tokens
    assert found.macs == pytest.approx(2 * (2 * layer + 16 * 53), rel=0.01)  # rotary phases
