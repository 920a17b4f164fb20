"""Metrics of tokens: perplexity, divergence from the model as given, masks and shifted targets."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import kl_div
from torchmetrics.functional.text import perplexity
from transformers import GPT2Config, GPT2LMHeadModel

import joulewise as jw
from joulewise.errors import DataError, InputError
from joulewise.metrics import (
    Accuracy,
    Compared,
    KLDivergence,
    NegativeLogLikelihood,
    NextToken,
    Perplexity,
    resolve_metric,
)
from joulewise.models import seeded
from metric_passes import classes, rand


def passed(metric, *batches):
    accumulator = metric.new()
    for outputs, targets in batches:
        accumulator.update(outputs, targets)
    return accumulator.compute()


@pytest.fixture(scope="module")
def gpt():
    with seeded(0):
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=31, n_positions=16, n_embd=16, n_layer=2, n_head=2)
        ).eval()


def test_perplexity_is_that_of_torchmetrics():
    outputs, targets = rand(5, 9, 17), classes(5, 9, of=17)
    targets[2:, 4:] = -100
    expected = float(perplexity(outputs, targets, ignore_index=-100))
    parts = zip(outputs.split(2), targets.split(2), strict=True)
    value = passed(Perplexity(), *parts)
    assert value == pytest.approx(expected, rel=1e-6)
    likelihood = passed(NegativeLogLikelihood(), (outputs, targets))
    assert Perplexity().derived(value)["negative log-likelihood"] == pytest.approx(likelihood)


def test_a_perplexity_beyond_float64_fails_the_pass():
    outputs = torch.tensor([[0.0, -800.0]])
    assert passed(Perplexity(), (outputs, torch.tensor([1]))) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_divergence_is_that_of_torch(dtype):
    given, found = 3 * rand(4, 6, 11), 3 * rand(4, 6, 11)
    given, found = given.to(dtype), found.to(dtype)
    log_p, log_q = (x.double().log_softmax(-1).flatten(0, 1) for x in (given, found))
    expected = float(kl_div(log_q, log_p, reduction="batchmean", log_target=True))
    value = passed(KLDivergence(), (found, Compared(given, None)))
    assert value == pytest.approx(expected, rel=1e-12 if dtype == torch.float64 else 1e-5)
    assert passed(KLDivergence(), (given, Compared(given, None))) == 0.0


def test_divergence_counts_the_targets_that_count():
    given, found, targets = rand(2, 5, 7), rand(2, 5, 7), classes(2, 5, of=7)
    targets[0, 2:] = targets[1] = -100
    value = passed(KLDivergence(), (found, Compared(given, targets)))
    first = passed(KLDivergence(), (found[:1, :2], Compared(given[:1, :2], None)))
    assert value == pytest.approx(first, rel=1e-6)
    shifted = NextToken(KLDivergence())
    assert passed(shifted, (found, Compared(given, targets))) == pytest.approx(
        passed(KLDivergence(), (found[:1, :1], Compared(given[:1, :1], None))), rel=1e-6
    )
    assert passed(shifted, (found, Compared(given, None))) == pytest.approx(
        passed(KLDivergence(), (found[:, :-1], Compared(given[:, :-1], None))), rel=1e-6
    )


def test_tokens_that_the_model_as_given_excludes_add_nothing():
    given = torch.tensor([[0.0, -math.inf, 0.0]])
    found = torch.tensor([[0.0, -math.inf, 1.0]])
    expected = math.log((1 + math.e) / 2) - 0.5
    assert passed(KLDivergence(), (found, Compared(given, None))) == pytest.approx(expected)
    lost = torch.tensor([[-math.inf, 0.0, 0.0]])
    assert passed(KLDivergence(), (lost, Compared(given, None))) is None


def test_outputs_of_other_shapes_are_refused():
    with pytest.raises(DataError, match="KL divergence is float32 .2, 4.*allowed: outputs"):
        KLDivergence().check(rand(2, 3), Compared(rand(2, 4), None))
    with pytest.raises(DataError, match="allowed: targets of the outputs' shape without classes"):
        KLDivergence().check(rand(2, 3), Compared(rand(2, 3), classes(3, of=3)))


def test_labels_are_shifted_for_metrics_that_compare():
    outputs, labels = rand(2, 5, 7), classes(2, 5, of=7)
    metric = resolve_metric(KLDivergence(), outputs, Compared(outputs, labels), labels=True)
    assert metric == NextToken(KLDivergence()) and metric.compares
    assert resolve_metric(Perplexity(), outputs, labels, labels=True).geometric


def batches(ids, **more):
    return [
        {"input_ids": ids[k : k + 4], **{name: tensor[k : k + 4] for name, tensor in more.items()}}
        for k in range(0, len(ids), 4)
    ]


def test_simulations_compare_with_the_model_as_given(gpt):
    ids = torch.randint(31, (8, 12), generator=torch.Generator().manual_seed(0))
    placement = jw.place(gpt, weights=jw.SRAM(bits=8), example_inputs={"input_ids": ids[:2]})
    found = jw.simulate(
        placement, batches(ids), at={"eta": 0.6}, chips=3, metric=jw.metrics.KLDivergence()
    )
    assert found.original == 0.0 and 0.0 < found.ideal < 0.01
    with jw.loaded(placement, at={"eta": 0.6}, chip=1) as faulty, torch.no_grad():
        log_q = faulty(input_ids=ids).logits.log_softmax(-1)
        log_p = gpt(input_ids=ids).logits.log_softmax(-1)
    expected = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
    assert found.values[1] == pytest.approx(expected, rel=1e-5)


def test_masked_tokens_do_not_count(gpt):
    ids = torch.randint(31, (8, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[:, 7:] = 0
    placement = jw.place(gpt, weights=jw.SRAM(bits=8), example_inputs={"input_ids": ids[:2]})

    def simulated(metric, *data):
        return [
            jw.simulate(placement, one, at={"eta": 0.5}, chips=2, metric=metric).values
            for one in data
        ]

    cut, whole = simulated(
        None,
        batches(ids[:, :7], labels=ids[:, :7]),
        batches(ids, attention_mask=mask, labels=ids),
    )
    assert whole == pytest.approx(cut, rel=1e-5)
    cut, whole = simulated(KLDivergence(), batches(ids[:, :7]), batches(ids, attention_mask=mask))
    # Log-probabilities near log(31) are rounded to float32.
    assert whole == pytest.approx(cut, abs=6e-8 * math.log(31))
    pads = KLDivergence(ignore_index=0)  # of targets; there are none here
    cut, whole = simulated(pads, batches(ids[:, :7]), batches(ids, attention_mask=mask))
    assert whole == pytest.approx(cut, abs=6e-8 * math.log(31))


def test_padding_on_the_left_leaves_the_loss_as_it_is(gpt):
    ids = torch.randint(31, (8, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[:, :5] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    placement = jw.place(gpt, weights=jw.SRAM(bits=8), example_inputs={"input_ids": ids[:2]})
    padded = batches(ids, attention_mask=mask, position_ids=positions, labels=ids)
    cut, whole = (
        jw.simulate(placement, data, at={"eta": 0.5}, chips=2).values
        for data in (batches(ids[:, 5:], labels=ids[:, 5:]), padded)
    )
    assert whole == pytest.approx(cut, rel=1e-5)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "BertForTokenClassification", "T5"])
def test_labels_of_models_that_are_not_causal(name):
    """Their losses compare labels with the output at the same position."""
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    with seeded(0):
        if name == "T5":
            sizes = dict(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
            config = transformers.T5Config(vocab_size=31, **sizes, decoder_start_token_id=0)
            model = transformers.T5ForConditionalGeneration(config).eval()
        else:
            config = transformers.BertConfig(vocab_size=31, **sizes, num_labels=31)
            model = getattr(transformers, name)(config).eval()
        ids, labels = torch.randint(31, (4, 6)), torch.randint(31, (4, 6))
    labels[:, 2] = -100
    data = [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}]
    placement = jw.place(model, weights=jw.SRAM(bits=8), example_inputs=data[0])
    found = jw.simulate(placement, data, at={"eta": 0.9}, chips=2)
    assert found.original == pytest.approx(float(model(**data[0]).loss.detach()), rel=1e-5)


def simulation(values, metric=None, ideal=20.0):
    """Chips of a placement that costs nothing to simulate, with given values."""
    layer = torch.nn.Linear(3, 3)
    placement = jw.place(layer, weights=jw.SRAM(bits=4))
    data = [(torch.ones(2, 3), torch.zeros(2, dtype=torch.long))]
    one = jw.simulate(placement, data, at={"eta": 0.5}, chips=1)
    return replace(one, metric=metric or Perplexity(), values=tuple(values), ideal=ideal, mse=())


def test_means_over_chips_are_geometric():
    found = simulation([10.0, 40.0, 20.0, 80.0])
    logs = np.log([10.0, 40.0, 20.0, 80.0])
    assert found.mean == pytest.approx(math.exp(logs.mean()))
    low, high = found.interval()
    reach = 3.182446 * logs.std(ddof=1) / 2  # Student's t of three degrees of freedom
    assert (low, high) == pytest.approx(
        (found.mean / math.exp(reach), found.mean * math.exp(reach))
    )
    assert "negative log-likelihood" in repr(found)


def test_collapse_rate_counts_failed_chips():
    found = simulation([20.0, 21.0, 250.0, None])
    rate, interval = found.collapse_rate(10)
    assert rate == 0.5 and interval.low < 0.5 < interval.high
    loss = simulation(
        [math.log(v) for v in (20.0, 199.0, 201.0)], NegativeLogLikelihood(), math.log(20)
    )
    assert loss.collapse_rate(10)[0] == pytest.approx(1 / 3)
    with pytest.raises(InputError, match="the metric is accuracy; allowed: one that is positive"):
        simulation([0.5], Accuracy(), 0.9).collapse_rate(2)
    with pytest.raises(InputError, match="multiple is 1"):
        found.collapse_rate(1.0)


def test_a_relative_drop_of_perplexity_is_a_difference_of_likelihoods(gpt):
    ids = torch.randint(31, (16, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        likeliest = gpt(input_ids=ids).logits.argmax(-1)
    labels = torch.cat([ids[:, :1], likeliest[:, :-1]], 1)
    data = batches(ids, labels=labels)
    placement = jw.place(gpt, weights=jw.SRAM(bits=8), example_inputs={"input_ids": ids[:2]})
    found = jw.allocate(
        placement,
        data,
        goal=jw.MetricDrop(0.02, relative=True),
        metric=Perplexity(),
        chips=20,
        granularity=jw.Granularity(per="network"),
    )
    assert found.holds
    assert found.limit == pytest.approx(1.02 * found.simulation.ideal)
    logs = np.log(found.simulation.values)
    assert math.exp(logs.mean()) == pytest.approx(found.simulation.mean)
    assert found.simulation.mean < found.limit
