"""Key-value caches: keys and values of each position, as attention reads them."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    StaticCache,
)
from transformers.cache_utils import LinearAttentionLayer

import joulewise as jw
from joulewise.devices import Chip, Retention
from joulewise.errors import InputError, ModelError
from joulewise.models import seeded
from joulewise.prediction import Fisher
from language_models import llama, mistral


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
        hybrid = DynamicCache(config=model.config)
        hybrid.layers[1] = LinearAttentionLayer()
        pair = EncoderDecoderCache(DynamicCache(), DynamicCache())
        odd = "DynamicCache, with a layer of class LinearAttentionLayer"
        for cache, name in ((pair, "EncoderDecoderCache"), (hybrid, odd)):
            with pytest.raises(ModelError, match=f"the cache is of class {name}; allowed: a Dyn"):
                faulty(input_ids=ids[:1], cache=cache)
        given = DynamicCache(config=model.config)
        faulty(input_ids=ids[:1], cache=given)
        assert given.get_seq_length() == 12
        assert "update" not in vars(given)  # no longer through that memory


def test_generation_without_a_cache(model, placement, ids):
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "use_cache": False}
    with torch.no_grad(), jw.loaded(placement, at={"eta": 0.3}) as faulty:
        found = faulty.generate(ids[:1, :6], **options)
        assert torch.equal(faulty(input_ids=found[:, :-1]).logits[:, -1].argmax(-1), found[:, -1])


def test_a_cache_is_left_as_it_was_by_ctrl_c(model, placement, ids):
    """No hook of torch runs after it."""
    caches = [DynamicCache(config=model.config) for _ in range(2)]

    def interrupt(*_):
        raise KeyboardInterrupt

    with jw.loaded(placement, at={"eta": 0.4}, chip=3) as faulty, torch.no_grad():
        expected = faulty(input_ids=ids[:1]).logits
        for cache in caches:
            hook = faulty.model.layers[1].mlp.register_forward_pre_hook(interrupt)
            with pytest.raises(KeyboardInterrupt):
                faulty(input_ids=ids[:1], cache=cache)
            hook.remove()
            if cache is caches[0]:
                assert torch.equal(faulty(input_ids=ids[:1]).logits, expected)
                assert "update" not in vars(cache)
    assert "update" not in vars(caches[1])


def test_a_cache_by_position(model, placement, ids):
    with jw.loaded(placement, at={"eta": 0.4}, chip=3) as faulty, torch.no_grad():
        expected = faulty(input_ids=ids[:1]).logits
        cache = DynamicCache(config=model.config)
        assert torch.equal(faulty(ids[:1], None, None, cache).logits, expected)
        assert cache.get_seq_length() == 12
        assert torch.equal(faulty(ids[:1], None, None, None).logits, expected)
        assert len(faulty(input_ids=ids[:1], use_cache=False, return_dict=False)) == 1


def test_modules_named_cache_are_none():
    model = nn.Sequential()
    model.add_module("cache", nn.Sequential(nn.Linear(3, 2)))
    placed = jw.place(model, weights=jw.SRAM(), example_inputs=torch.ones(1, 3)).placed
    assert [p.name for p in placed] == ["cache.0.weight"]


MEMORY = jw.EDRAM(
    bits=8,
    fault=jw.Flip(),
    retention=Retention(median_s=5e-3, log_std=1.0, source="made up"),
    step_s=1e-3,
    refresh_range=(1e-4, 1.0),
)
AGED = {"refresh_s": 4e-3}


@pytest.fixture
def aged(model, ids):
    return jw.place(model, kv_cache=MEMORY, example_inputs={"input_ids": ids})


def keys_read(model, calls):
    """Keys of the first layer as stored and as read in each call, ``[batch, positions, ...]``."""
    found = []

    def hook(module, args, kwargs):
        cache = kwargs["cache"]
        inner = cache.update

        def spy(keys, values, layer, *rest, **more):
            read = inner(keys, values, layer, *rest, **more)
            if layer == 0:
                found.append((cache.layers[0].keys.transpose(1, 2), read[0].transpose(1, 2)))
            return read

        cache.update = spy

    handle = model.model.layers[0].register_forward_pre_hook(hook, with_kwargs=True)
    with torch.no_grad():
        for call in calls:
            model(**call)
    handle.remove()
    return found


def by_hand(placed, stored, ages, chip, at=AGED["refresh_s"]):
    """Each position read as from a memory with its age as the lifetime of the data."""
    rows = []
    for position, age in enumerate(ages):
        memory = replace(placed.device, step_s=None, lifetime_s=max(age * 1e-3, 1e-12))
        point = torch.tensor(at, dtype=torch.float64)
        part = Chip(seed=chip).region(placed.name)
        read = memory.round_trip(stored, point, part, placed.limit, words=placed.words)
        rows.append(read[:, position])
    return torch.stack(rows, 1)


def test_entries_age_by_steps_of_decoding(model, aged, ids):
    cache, first = DynamicCache(config=model.config), aged.placed[0]
    calls = [{"input_ids": ids[:2, :6], "cache": cache}]  # a prompt is written in one step
    calls += [{"input_ids": ids[:2, t : t + 1], "cache": cache} for t in range(6, 12)]
    with jw.loaded(aged, at=AGED, chip=1) as faulty:
        found = keys_read(faulty, calls)
    wrong = []
    for step, (stored, read) in enumerate(found):
        ages = [step] * 6 + [step - new for new in range(1, step + 1)]
        assert torch.equal(read, by_hand(first, stored, ages, 1))
        wrong.append(int((read != by_hand(first, stored, [0] * len(ages), 1)).sum()))
    assert wrong[0] == 0  # nothing fades within a step
    assert wrong == sorted(wrong) and wrong[-1] > wrong[1]


def test_teacher_forcing_reads_entries_at_their_oldest(model, aged, ids):
    with jw.loaded(aged, at=AGED, chip=2) as faulty:
        ((stored, read),) = keys_read(faulty, [{"input_ids": ids}])
    assert torch.equal(read, by_hand(aged.placed[0], stored, range(11, -1, -1), 2))


def test_positions_cut_off_are_written_anew(model, aged, ids):
    cache, first = DynamicCache(config=model.config), aged.placed[0]
    with jw.loaded(aged, at=AGED, chip=1) as faulty:
        keys_read(faulty, [{"input_ids": ids[:1, :8], "cache": cache}])
        cache.crop(-3)
        ((stored, read),) = keys_read(faulty, [{"input_ids": ids[:1, 5:7], "cache": cache}])
    assert torch.equal(read, by_hand(first, stored, [1] * 5 + [0] * 2, 1))


def test_a_cache_that_was_filled_elsewhere_is_one_step_old(model, aged, ids):
    cache, first = DynamicCache(config=model.config), aged.placed[0]
    with torch.no_grad():
        model(input_ids=ids[:1, :5], cache=cache)
    with jw.loaded(aged, at=AGED, chip=1) as faulty:
        ((stored, read),) = keys_read(faulty, [{"input_ids": ids[:1, 5:7], "cache": cache}])
    assert torch.equal(read, by_hand(first, stored, [1] * 5 + [0] * 2, 1))


def test_refreshed_in_time_nothing_fades(model, ids):
    memory = replace(MEMORY, refresh_range=(1e-7, 1.0))  # 11 standard deviations below the median
    placement = jw.place(model, kv_cache=memory, example_inputs={"input_ids": ids})
    perfect = jw.place(model, kv_cache=jw.SRAM(bits=8), example_inputs={"input_ids": ids})
    with jw.loaded(perfect, at={"eta": 1.0}) as clean, torch.no_grad():
        expected = clean(input_ids=ids).logits
    with jw.loaded(placement, at={"refresh_s": 1e-7}) as faulty, torch.no_grad():
        assert torch.equal(faulty(input_ids=ids).logits, expected)
        cache = DynamicCache(config=model.config)
        steps = [faulty(input_ids=ids[:, t : t + 1], cache=cache).logits for t in range(12)]
    assert torch.allclose(torch.cat(steps, 1), expected, atol=1e-4)


def test_predicted_and_simulated_with_ages(model, aged, ids):
    data, at = [{"input_ids": one} for one in ids.split(2)], {"refresh_s": 7e-4}
    found = jw.predict(aged, data, at=at, method=Fisher(draws=16, most_draws=64))
    chips = jw.simulate(aged, data, at=at, chips=300, metric=jw.metrics.KLDivergence())
    reach = chips.interval(0.999).half_width + 3.3 * found.standard_error
    assert float(found.divergence) == pytest.approx(chips.mean, abs=reach + 0.15 * chips.mean)
    with pytest.raises(InputError, match="^step_s of the memory of cache.0:key is 0.001"):
        jw.error_model(aged, data, at=at, of="divergence")


def test_a_static_cache_reads_as_a_dynamic_one(model, aged, ids):
    with jw.loaded(aged, at=AGED, chip=1) as faulty, torch.no_grad():
        outputs = []
        for cache in (
            DynamicCache(config=model.config),
            StaticCache(config=model.config, max_cache_len=16),
        ):
            faulty(input_ids=ids[:2, :6], cache=cache)
            steps = [faulty(input_ids=ids[:2, t : t + 1], cache=cache) for t in (6, 7)]
            outputs.append(torch.cat([step.logits for step in steps], 1))
        assert cache.layers[0].keys[..., 8:, :].abs().max() == 0  # not written to
    assert torch.allclose(*outputs, atol=1e-5)


@pytest.fixture(scope="module")
def sliding():
    with seeded(0):
        made = mistral(window=4)
        for parameter in made.parameters():
            parameter.data *= 4 if parameter.ndim > 1 else 1
    return made


def test_sliding_windows_keep_the_cells_of_a_position(sliding, ids):
    placement = jw.place(sliding, kv_cache=MEMORY, example_inputs={"input_ids": ids})
    first = placement.placed[0]
    assert first.shape == (12, 2, 4)
    cache = DynamicCache(config=sliding.config)
    calls = [{"input_ids": ids[:2, t : t + 1], "cache": cache} for t in range(12)]
    with jw.loaded(placement, at=AGED, chip=1) as faulty:
        found = keys_read(faulty, calls)
        whole = keys_read(faulty, [{"input_ids": ids[:2]}])[0][1]
    for step, (kept, read) in enumerate(found):
        ages = list(range(min(step, 3), -1, -1))
        assert read.shape[1] == len(ages)
        # The layer has dropped the oldest after its update: take the last that it keeps.
        at = range(step + 1 - kept.shape[1], step + 1)
        stored = torch.zeros(2, step + 1, 2, 4)
        stored[:, at.start :] = kept
        expected = by_hand(first, stored, range(step, -1, -1), 1)[:, at.start :]
        assert torch.equal(read[:, -kept.shape[1] :], expected)
    assert torch.equal(whole[:, -1], read[:, -1])


def test_a_static_sliding_window_reads_as_a_dynamic_one(sliding, ids):
    placement = jw.place(sliding, kv_cache=MEMORY, example_inputs={"input_ids": ids})
    with jw.loaded(placement, at=AGED, chip=1) as faulty, torch.no_grad():
        outputs = []
        for cache in (
            DynamicCache(config=sliding.config),
            StaticCache(config=sliding.config, max_cache_len=16),
        ):
            calls = [ids[:2, :3], *(ids[:2, t : t + 1] for t in range(3, 9)), ids[:2, 9:11]]
            steps = [faulty(input_ids=some, cache=cache).logits for some in calls]
            outputs.append(torch.cat(steps, 1))
    assert torch.allclose(*outputs, atol=1e-5)
