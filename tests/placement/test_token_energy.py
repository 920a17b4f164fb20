"""Energy per token: weights once for a pass, the cache for each token."""

import pytest
import torch
from torch import nn

import joulewise as jw
from joulewise.errors import InputError, ModelError
from joulewise.models import seeded
from joulewise.placement import token_energy
from language_models import llama, mistral, mixtral

BIT_J, POINT = jw.SRAM(bits=8).reliable_bit_j, 0.5


@pytest.fixture(scope="module")
def model():
    with seeded(0):
        return llama()


@pytest.fixture(scope="module")
def placement(model):
    example = {"input_ids": torch.zeros(1, 16, dtype=torch.long)}
    memory = jw.SRAM(bits=8)
    return jw.place(model, weights=memory, kv_cache=memory, example_inputs=example)


def test_contexts_that_do_not_fit(model, placement):
    with pytest.raises(InputError, match="context is 17; allowed: at most 16, the tokens of"):
        token_energy(placement, at={"eta": POINT}, context=17)
    with pytest.raises(InputError, match="context is 1000000000; allowed: at most 31, by max_pos"):
        token_energy(jw.place(model, weights=jw.SRAM()), at={"eta": POINT}, context=10**9)


def joules(words):
    return words * 8 * BIT_J * POINT


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("context", [1, 10])
def test_figures_by_hand(placement, batch, context):
    found = token_energy(placement, at={"eta": POINT}, context=context, batch=batch)
    gate, head, table = 16 * 24, 16 * 53, 16
    cache = 2 * 4  # heads times features, of a position
    for energy, tokens in ((found.prompt, context), (found.generated, 1)):
        for name, words in (("model.layers.0.mlp.gate_proj", gate), ("lm_head", head)):
            spent = float(energy.memory_j[f"{name}.weight"])
            assert spent == pytest.approx(joules(words) / (tokens * batch))
        assert float(energy.memory_j["model.embed_tokens.weight"]) == pytest.approx(joules(table))
    assert float(found.prompt.memory_j["cache.0:key"]) == pytest.approx(joules(2 * cache))
    # All positions and its own are read, its own is written.
    expected = joules((context + 1) * cache + cache)
    assert float(found.generated.memory_j["cache.0:key"]) == pytest.approx(expected)
    assert found.generated.normalised == pytest.approx(POINT)
    assert "generated token" in repr(found)
    assert found.to_dict()["batch"] == batch


def test_the_most_reliable_plan_is_the_whole(placement):
    plan = {p.name: {"eta": 0.9 if p.role == "activation" else 0.5} for p in placement.placed}
    found = token_energy(placement, at=jw.Plan(plan), context=8, batch=16).generated
    whole = token_energy(placement, at=placement.most_reliable(), context=8, batch=16).generated
    assert found.memory_reliable_j == pytest.approx(whole.memory_total_j)
    assert found.normalised == pytest.approx(found.memory_total_j / whole.memory_total_j)


def test_arrays_that_compute_are_not_fetched(model):
    example = {"input_ids": torch.zeros(1, 8, dtype=torch.long)}
    placement = jw.place(
        model,
        weights=jw.Crossbar(sigma=1e-6),
        include=["*.gate_proj.weight"],
        example_inputs=example,
    )
    one, many = (
        token_energy(placement, at={"g_max": 2e-5}, context=8, batch=batch) for batch in (1, 8)
    )
    assert one.generated.memory_total_j == pytest.approx(many.generated.memory_total_j)


def test_refresh_of_the_entries_that_are_read(model):
    """Over the seconds of a step; the plan is one for the memory as given."""
    memory = jw.EDRAM(step_s=0.02, refresh_j=1e-12, access_j=1e-13, refresh_range=(1e-5, 1.0))
    example = {"input_ids": torch.zeros(1, 16, dtype=torch.long)}
    placement = jw.place(model, kv_cache=memory, example_inputs=example)
    cache, at = 2 * 4 * 8, placement.plan({"refresh_s": 5e-3})
    found = token_energy(placement, at=at, context=10, batch=3)
    refreshes = 0.02 / 5e-3 * 1e-12
    expected = cache * (12 * 1e-13 + 11 * refreshes)
    assert float(found.generated.memory_j["cache.0:key"]) == pytest.approx(expected)
    assert float(found.prompt.memory_j["cache.0:key"]) == pytest.approx(cache * (2e-13 + refreshes))


def test_a_sliding_window_reads_its_last_positions():
    with seeded(0):
        model = mistral(window=4)
    example = {"input_ids": torch.zeros(1, 16, dtype=torch.long)}
    placement = jw.place(model, kv_cache=jw.SRAM(bits=8), example_inputs=example)
    found = token_energy(placement, at={"eta": POINT}, context=10).generated
    assert float(found.memory_j["cache.0:key"]) == pytest.approx(joules((4 + 1) * 2 * 4))


@pytest.mark.parametrize("batch", [1, 3])
def test_experts_are_fetched_for_the_tokens_that_choose_them(batch):
    with seeded(0):
        model = mixtral()
    example = {"input_ids": torch.zeros(1, 8, dtype=torch.long)}
    placement = jw.place(model, weights=jw.SRAM(bits=8), example_inputs=example)
    found = token_energy(placement, at={"eta": POINT}, context=8, batch=batch)
    name, words = "model.layers.1.mlp.experts.down_proj", 4 * 16 * 24
    for energy, tokens in ((found.generated, batch), (found.prompt, 8 * batch)):
        expected = joules(words) * (1 - 0.5**tokens) / tokens
        assert float(energy.memory_j[name]) == pytest.approx(expected)


def test_inputs_of_layers_are_written_and_read_for_each_token(model):
    example, memory = {"input_ids": torch.zeros(1, 8, dtype=torch.long)}, jw.SRAM(bits=8)
    names = ["lm_head:input", "*.down_proj:input"]
    placement = jw.place(model, activations=memory, include=names, example_inputs=example)
    found = token_energy(placement, at={"eta": POINT}, context=5, batch=2)
    for energy in (found.prompt, found.generated):
        for name, words in (("lm_head", 16), ("model.layers.1.mlp.down_proj", 24)):
            spent = float(energy.memory_j[f"{name}:input"])
            assert spent == pytest.approx(joules(2 * words))


def test_what_is_refused(placement):
    with pytest.raises(InputError, match="^context is 0"):
        token_energy(placement, at={"eta": 0.5}, context=0)
    with pytest.raises(InputError, match="^batch is 0"):
        token_energy(placement, at={"eta": 0.5}, context=4, batch=0)
    other = jw.place(nn.Linear(3, 2), weights=jw.SRAM(), example_inputs=torch.ones(1, 3))
    with pytest.raises(ModelError, match="takes no cache; allowed: a causal"):
        token_energy(other, at={"eta": 0.5}, context=4)
