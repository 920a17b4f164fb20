"""Heads that lose less by bit faults: equal functions, tied tables, and what they are for."""

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import joulewise as jw
from joulewise.errors import InputError, ModelError
from joulewise.models import seeded
from joulewise.prediction import Fisher
from joulewise.transforms import center_head, rotate_head
from language_models import llama


def gpt():
    config = GPT2Config(vocab_size=53, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    config.bos_token_id = config.eos_token_id = None
    return GPT2LMHeadModel(config)


@pytest.fixture(params=["gpt", "llama, tied", "llama"])
def model(request):
    with seeded(0):
        made = gpt() if request.param == "gpt" else llama(tied="tied" in request.param)
        for parameter in made.parameters():
            parameter.data *= 3 if parameter.ndim > 1 else 1
        made.get_output_embeddings().weight.data[:, 3] -= 1.0  # a common offset
    return made.eval()


@pytest.fixture
def ids():
    return torch.randint(53, (4, 10), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def log_p(model, ids):
    return model(input_ids=ids).logits.log_softmax(-1)


@pytest.mark.parametrize("transform", [center_head, rotate_head])
def test_the_function_stays_as_it_is(model, ids, transform):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    changed = transform(model)
    assert torch.allclose(log_p(changed, ids), log_p(model, ids), atol=2e-5)
    assert not torch.allclose(
        next(p for n, p in changed.named_parameters() if p.shape == (53, 16)),
        model.get_output_embeddings().weight,
        atol=1e-3,
    )
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    words = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in changed.parameters()) == words  # tied tables stay tied


@pytest.mark.parametrize("transform", [center_head, rotate_head])
def test_generation_goes_on(model, ids, transform):
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        expected = model.generate(ids[:1], **options)
        assert torch.equal(transform(model).generate(ids[:1], **options), expected)


def head_weight(model):
    return [m for m in model.modules() if isinstance(m, nn.Linear)][-1].weight.detach()


def test_columns(model):
    assert float(head_weight(center_head(model)).mean(0).abs().max()) < 1e-6
    rotated = head_weight(rotate_head(model, seed=3))
    before, after = (w.norm(dim=0) for w in (head_weight(model), rotated))
    assert float(after.max() / after.mean()) < float(before.max() / before.mean())
    assert torch.equal(head_weight(rotate_head(model, seed=3)), rotated)


def test_faults_cost_less(ids):
    """An offset of a column whose input is large, as language models have."""
    with seeded(0):
        model = llama(tied=True)
        model.lm_head.weight.data[:, 3] -= 0.5
        model.model.norm.weight.data[3] = 25.0
    data = [{"input_ids": ids, "labels": ids}]
    found = {}
    for name, made in {
        "as it is": model,
        "centered": center_head(model),
        "rotated": rotate_head(model),
    }.items():
        placement = jw.place(
            made, weights=jw.SRAM(bits=8, channel_dim=0), example_inputs={"input_ids": ids}
        )
        chips = jw.simulate(
            placement, data, at={"eta": 0.6}, chips=100, metric=jw.metrics.KLDivergence()
        )
        forecast = jw.predict(placement, data, at={"eta": 0.6}, method=Fisher(draws=4))
        low, high = chips.interval(0.999)
        assert float(forecast.divergence) == pytest.approx(
            chips.mean, abs=(high - low) / 2 + 0.15 * chips.mean
        )
        found[name] = chips.mean
    assert found["centered"] < found["as it is"] / 2
    assert found["rotated"] < found["as it is"] / 2


def test_a_model_may_ask_for_the_weight_of_its_head():
    turned = rotate_head(gpt())
    assert turned.lm_head.weight.dtype == torch.float32
    assert list(turned.lm_head.parameters())[0] is turned.lm_head.weight


def test_what_is_refused():
    with pytest.raises(InputError, match="^model is 3"):
        center_head(3)
    with pytest.raises(ModelError, match="a Linear, whose output embeddings are a NoneType"):
        center_head(nn.Linear(2, 2))
    broken = gpt()
    broken.lm_head.weight.data[3, 2] = torch.nan
    for transform in (center_head, rotate_head):
        with pytest.raises(ModelError, match="weight of the head is NaN or infinite; allowed"):
            transform(broken)
    with pytest.raises(InputError, match="^seed is -1"):
        rotate_head(gpt(), seed=-1)
