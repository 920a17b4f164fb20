"""Key-value caches: keys and values of each position, as attention reads them."""

import pytest
import torch
from torch import nn
from transformers import DynamicCache, StaticCache

import joulewise as jw
from joulewise.devices import Chip
from joulewise.errors import InputError, ModelError
from joulewise.models import seeded
from joulewise.prediction import Fisher
from language_models import llama


@pytest.fixture(scope="module")
def model():
    with seeded(0):
        made = llama()
        for parameter in made.parameters():
            parameter.data *= 4 if parameter.ndim > 1 else 1
    return made


@pytest.fixture
def ids():
    return torch.randint(53, (6, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def placement(model, ids):
    return jw.place(model, kv_cache=jw.SRAM(bits=8), example_inputs={"input_ids": ids})


def test_keys_and_values_of_all_layers_are_placed(placement):
    names = [f"cache.{layer}:{kind}" for layer in (0, 1) for kind in ("key", "value")]
    assert [p.name for p in placement.placed] == names
    first = placement.placed[0]
    assert first.shape == (12, 2, 4) and first.role == "activation"
    assert first.traffic.reads == first.traffic.writes == 12 * 2 * 4
    assert jw.energy(placement, at={"eta": 0.5}).normalised == pytest.approx(0.5)


def test_chosen_by_pattern(model, ids):
    placed = jw.place(
        model,
        weights=jw.SRAM(bits=8),
        kv_cache=jw.SRAM(bits=4),
        exclude=["cache.*:value", "model.*"],
        example_inputs={"input_ids": ids},
    ).placed
    assert [p.name for p in placed] == ["lm_head.weight", "cache.0:key", "cache.1:key"]
    assert placed[1].device.bits == 4


def test_a_perfect_memory_changes_by_rounding_alone(model, ids):
    placement = jw.place(model, kv_cache=jw.SRAM(bits=16), example_inputs={"input_ids": ids})
    with jw.loaded(placement, at={"eta": 1.0}) as faulty, torch.no_grad():
        found = faulty(input_ids=ids).logits
        assert torch.allclose(found, model(input_ids=ids).logits, atol=0.02)


def test_a_position_has_the_same_faults_however_long_the_sequence_is(model, placement, ids):
    """Keys by the definition: each position through the memory, at its own cells."""
    first = placement.placed[0]
    reads = []
    for length in (12, 7):
        seen = {}

        def hook(module, args, kwargs, seen=seen):
            seen["cache"] = kwargs["cache"]

        with jw.loaded(placement, at={"eta": 0.4}, chip=3) as faulty, torch.no_grad():
            handle = faulty.model.layers[1].register_forward_pre_hook(hook, with_kwargs=True)
            faulty(input_ids=ids[:, :length])
            handle.remove()
            stored = seen["cache"].layers[0].keys.transpose(1, 2)
        chip = Chip(seed=3).region(first.name)
        point = torch.tensor(0.4, dtype=torch.float64)
        reads.append(first.device.round_trip(stored, point, chip, first.limit, words=first.words))
        ideal = first.device.round_trip(stored, point, None, first.limit, words=first.words)
        assert (reads[-1] != ideal).any()
    assert torch.equal(reads[0][:, :7], reads[1])


def test_generation_reads_the_cache_at_each_step(model, placement, ids):
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        clean = model.generate(ids[:2, :6], **options)
    with jw.loaded(placement, at={"eta": 1.0}) as faulty, torch.no_grad():
        assert faulty.generate(ids[:2, :6], **options).shape == clean.shape
        with pytest.raises(ModelError, match="positions in cache.0:key is 13; allowed: at most 12"):
            faulty.generate(ids[:2, :10], **options)
    with jw.loaded(placement, at={"eta": 0.1}, chip=1) as faulty, torch.no_grad():
        once = faulty.generate(ids[:2, :6], **options)
        # Step by step and at once: the same keys, the same cells.
        step = faulty(input_ids=once[:, :-1]).logits[:, -1].argmax(-1)
        assert torch.equal(step, once[:, -1])


def test_predicted_and_simulated(model, placement, ids):
    data = [{"input_ids": one} for one in ids.split(2)]
    at = {"eta": 0.7}
    found = jw.predict(placement, data, at=at, method=Fisher(draws=16, most_draws=64))
    chips = jw.simulate(placement, data, at=at, chips=300, metric=jw.metrics.KLDivergence())
    reach = chips.interval(0.999).half_width + 3.3 * found.standard_error
    # Sequences of one batch share their cells, which the prediction takes as independent.
    assert float(found.divergence) == pytest.approx(chips.mean, abs=reach + 0.15 * chips.mean)


def test_what_is_refused(model, placement, ids):
    with pytest.raises(ModelError, match="a Linear, which takes no cache; allowed: a causal"):
        jw.place(nn.Linear(3, 2), kv_cache=jw.SRAM(), example_inputs=torch.ones(1, 3))
    with pytest.raises(InputError, match="kv_cache needs example_inputs="):
        jw.place(model, kv_cache=jw.SRAM())
    with pytest.raises(InputError, match="^kv_cache is Crossbar"):
        jw.place(model, kv_cache=jw.Crossbar(), example_inputs={"input_ids": ids})
    with jw.loaded(placement, at={"eta": 0.5}) as faulty, torch.no_grad():
        static = StaticCache(config=model.config, max_cache_len=16)
        with pytest.raises(ModelError, match="the cache is a StaticCache of StaticLayer"):
            faulty(input_ids=ids[:1], cache=static)
        given = DynamicCache(config=model.config)
        faulty(input_ids=ids[:1], cache=given)
        assert given.get_seq_length() == 12
        assert "update" not in vars(given)  # no longer through that memory


def test_generation_without_a_cache(model, placement, ids):
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "use_cache": False}
    with torch.no_grad(), jw.loaded(placement, at={"eta": 0.3}) as faulty:
        found = faulty.generate(ids[:1, :6], **options)
        assert torch.equal(faulty(input_ids=found[:, :-1]).logits[:, -1].argmax(-1), found[:, -1])


def test_modules_named_cache_are_none():
    model = nn.Sequential()
    model.add_module("cache", nn.Sequential(nn.Linear(3, 2)))
    placed = jw.place(model, weights=jw.SRAM(), example_inputs=torch.ones(1, 3)).placed
    assert [p.name for p in placed] == ["cache.0.weight"]
