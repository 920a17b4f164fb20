"""Rotated residual streams: the function stays, outliers spread, tied tables stay tied."""

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import joulewise as jw
from joulewise.errors import InputError, ModelError
from joulewise.models import seeded
from joulewise.prediction import Fisher
from joulewise.transforms import center_head, rotate_residual
from language_models import llama

SIZES = {"vocab_size": 53, "num_attention_heads": 4, "num_hidden_layers": 2}
SIZES |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))


def gpt(tied):
    config = GPT2Config(vocab_size=53, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    config.bos_token_id = config.eos_token_id = None
    config.tie_word_embeddings = tied
    return GPT2LMHeadModel(config)


def qwen():
    """With biases, and a width for which there is no Hadamard matrix by doubling."""
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_key_value_heads": 2}
    return Qwen2ForCausalLM(Qwen2Config(**SIZES, **sizes, tie_word_embeddings=True))


MADE = {
    "llama": llama,
    "llama, tied": lambda: llama(tied=True),
    "qwen, tied": qwen,
    "gpt": lambda: gpt(tied=False),
    "gpt, tied": lambda: gpt(tied=True),
}


def trained(make):
    """Gains, offsets and biases as none is at the start, and an outlier dimension."""
    with seeded(0):
        model = make()
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.get_input_embeddings().weight.data[:, 3] += 4.0
    return model.eval()


@pytest.fixture(params=MADE)
def model(request):
    return trained(MADE[request.param])


@pytest.fixture
def ids():
    return torch.randint(53, (4, 10), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model, ids):
    return model(input_ids=ids).logits.float()


def test_the_function_stays_as_it_is(model, ids):
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rotated = rotate_residual(model, ids[:1, :6], seed=3)
    assert all(module.training for module in rotated.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    model.eval(), rotated.eval()
    expected = logits(model, ids)
    assert torch.allclose(logits(rotated, ids), expected, atol=2e-6 * float(expected.norm()))
    matrices = [sum(p.numel() for p in one.parameters() if p.ndim > 1) for one in (model, rotated)]
    assert matrices[0] == matrices[1]  # tied tables stay tied
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        tokens = [one.generate(ids[:1], **options) for one in (model, rotated)]
    assert torch.equal(*tokens)


def test_the_stream_is_rotated_in_every_layer(model, ids):
    """Inner products of a stream stay, its entries do not; nothing but a tied head is added."""
    rotated = rotate_residual(model, ids)
    with torch.no_grad():
        streams = [
            one(input_ids=ids, output_hidden_states=True).hidden_states[:-1]  # the last is normed
            for one in (model, rotated)
        ]
    for before, after in zip(*streams, strict=True):
        assert torch.allclose(before @ before.mT, after @ after.mT, rtol=1e-3, atol=1e-3)
        assert float((before - after).norm() / before.norm()) > 0.5
    added = {type(m) for m in rotated.modules()} - {type(m) for m in model.modules()}
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    assert {kind.__name__ for kind in added} <= {"Sequential", "Product", "Offset"}
    assert bool(added) == tied


def test_outliers_are_spread(ids):
    model = trained(MADE["llama, tied"])
    names = ("model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight")
    for name in names:
        model.get_parameter(name).data[:, 3] *= 5
    rotated, again = rotate_residual(model, ids), rotate_residual(model, ids)
    for name in names:
        before, after = (one.get_parameter(name).detach().norm(dim=0) for one in (model, rotated))
        assert float(before.max() / before.mean()) > 2.5
        assert float(after.max() / after.mean()) < 1.7
        assert torch.equal(again.get_parameter(name), rotated.get_parameter(name))


@pytest.mark.parametrize("kind", ["llama, tied", "qwen, tied", "gpt"])
def test_bfloat16_is_rounded_once(ids, kind):
    """The error beside float32 is that of rounding the model as it is."""
    model = trained(MADE[kind])
    half = trained(MADE[kind]).bfloat16()
    rotated = rotate_residual(half, ids)
    products = [module.matrix for module in rotated.modules() if hasattr(module, "matrix")]
    assert {tensor.dtype for tensor in (*rotated.parameters(), *products)} == {torch.bfloat16}
    expected = logits(model, ids)
    plain, turned = (float((logits(m, ids) - expected).norm()) for m in (half, rotated))
    assert turned < 2.5 * plain
    inverse = half.get_buffer("model.rotary_emb.inv_freq") if kind != "gpt" else None
    if inverse is not None:
        assert torch.equal(inverse, rotated.get_buffer("model.rotary_emb.inv_freq"))


def test_double_precision_stays(ids):
    model = trained(MADE["gpt, tied"]).double()
    with torch.no_grad():
        expected = model(ids).logits
        assert torch.allclose(rotate_residual(model, ids)(ids).logits, expected, rtol=1e-9)


def test_a_centred_head_is_rotated_too(ids):
    model = trained(MADE["llama, tied"])
    both = rotate_residual(center_head(model), ids)
    assert torch.allclose(
        logits(both, ids).log_softmax(-1), logits(model, ids).log_softmax(-1), atol=1e-4
    )
    (table,) = (m for m in both.modules() if isinstance(m, nn.Embedding))
    assert float(table.weight.detach().mean(0).abs().max()) < 1e-6


def test_memories_hold_a_tied_table_once(ids):
    """And what is predicted of faults in it is what is simulated."""
    model = trained(MADE["llama, tied"])
    data = [{"input_ids": ids, "labels": ids}]
    words = {}
    for name, made in {"as it is": model, "rotated": rotate_residual(model, ids)}.items():
        memory = jw.SRAM(bits=8, channel_dim=0)
        placement = jw.place(made, weights=memory, example_inputs={"input_ids": ids})
        words[name] = sum(tensor.words for tensor in placement.placed)
    assert words["as it is"] == words["rotated"]
    at = {"eta": 0.8}
    chips = jw.simulate(placement, data, at=at, chips=100, metric=jw.metrics.KLDivergence())
    forecast = jw.predict(placement, data, at=at, method=Fisher(draws=4))
    low, high = chips.interval(0.999)
    wide = (high - low) / 2 + 0.15 * chips.mean
    assert float(forecast.divergence) == pytest.approx(chips.mean, abs=wide)


class Direct(nn.Module):
    """Reads its stream with a linear layer beside the norm."""

    def __init__(self):
        super().__init__()
        self.table, self.norm = nn.Embedding(53, 16), nn.LayerNorm(16)
        self.normed, self.direct = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, ids):
        x = self.table(ids)
        return self.normed(self.norm(x)) + self.direct(x)


class TwoNorms(Direct):
    """Reads two norms with one layer."""

    def forward(self, ids):
        x = self.table(ids)
        return self.normed(self.norm(x)) + self.normed(nn.functional.relu(self.norm(x)) + x)


def test_what_is_refused(ids):
    with pytest.raises(InputError, match="^model is 3"):
        rotate_residual(3, ids)
    with pytest.raises(InputError, match="^seed is -1"):
        rotate_residual(gpt(tied=True), ids, seed=-1)
    with pytest.raises(ModelError, match="one without a linear layer that reads a norm"):
        rotate_residual(nn.Linear(2, 2), torch.ones(1, 2))
    with pytest.raises(ModelError, match="fails on example_inputs with ValueError"):
        rotate_residual(gpt(tied=True), {"nothing": ids})
    for made in (Direct(), TwoNorms()):
        with pytest.raises(ModelError, match="the model is one whose outputs change by"):
            rotate_residual(made, ids)
    with seeded(0):  # norms after the layers
        sizes = {"hidden_size": 16, "intermediate_size": 24}
        olmo = Olmo2ForCausalLM(Olmo2Config(**SIZES, **sizes))
    with pytest.raises(ModelError, match="one without a linear layer"):
        rotate_residual(olmo, ids)
