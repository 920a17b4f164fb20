"""Loss and divergence by the Fisher information: exact curvature, chips, and what is refused."""

import copy
import math

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import joulewise as jw
from joulewise.devices import SECDED, Device, Flip
from joulewise.errors import DataError, InputError, ModelError
from joulewise.metrics import KLDivergence, NegativeLogLikelihood, NextToken
from joulewise.models import seeded
from joulewise.placement import Batch
from joulewise.prediction import Fisher
from joulewise.prediction.counted_rows import counted_rows
from language_models import mixtral


@pytest.fixture(scope="module")
def net():
    """A classifier with sharp logits, and samples."""
    with seeded(0):
        model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 5)).eval()
        model[2].weight.data *= 4
        inputs = torch.randn(24, 6)
        targets = torch.distributions.Categorical(logits=model(inputs).detach()).sample()
    return model, [(inputs[k : k + 4], targets[k : k + 4]) for k in range(0, 24, 4)]


@pytest.fixture(scope="module")
def gpt():
    """A language model with tied embeddings and sharp logits, and tokens."""
    with seeded(0):
        config = GPT2Config(vocab_size=41, n_positions=16, n_embd=24, n_layer=2, n_head=2)
        config.bos_token_id = config.eos_token_id = None
        model = GPT2LMHeadModel(config).eval()
        ids = torch.randint(41, (8, 12))
        for parameter in model.parameters():
            parameter.data *= 4 if parameter.ndim > 1 else 1
    return model, [{"input_ids": ids[k : k + 2], "labels": ids[k : k + 2]} for k in range(0, 8, 2)]


def exact_information(model, batches, name):
    """Diagonal of the Fisher information of one weight, summed over rows, by one pass a class."""
    weight = model.get_parameter(name)
    found = torch.zeros_like(weight)
    for inputs, _ in batches:
        log_q = model(inputs).log_softmax(-1)
        for row in log_q:
            for chance in row:
                (g,) = torch.autograd.grad(chance, weight, retain_graph=True)
                found += chance.detach().exp() * g.square()
    return found


@pytest.mark.parametrize("memory", [jw.Crossbar(sigma=2e-6, clip=False), jw.SRAM(bits=8)])
def test_contributions_are_those_of_the_exact_information(net, memory):
    model, batches = net
    placement = jw.place(model, weights=memory, example_inputs=batches[0][0])
    at = {"g_max": 4e-5} if isinstance(memory, jw.Crossbar) else {"eta": 0.7}
    method = Fisher(draws=400, most_draws=400, channels=True)
    found = jw.predict(placement, batches, at=at, method=method)
    with jw.placement.private_memory(placement) as loaded:
        moments = loaded.moments(placement.points(at))
        state = {n: m.mean.detach().clone() for n, m in moments.items()}
    twin = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 5))
    twin.load_state_dict({**model.state_dict(), **state})
    information = exact_information(twin, batches, "0.weight")
    each = (moments["0.weight"].var.double() * information).detach() / 2 / 24
    # The standard error of all contributions bounds that of this one.
    assert float(found.contributions["0.weight"]) == pytest.approx(
        float(each.sum()), abs=4 * found.standard_error
    )
    assert torch.allclose(found.by_channel["0.weight"], each.sum(1), atol=4 * found.standard_error)
    assert float(found.by_channel["0.weight"].sum()) == pytest.approx(
        float(found.contributions["0.weight"]), rel=1e-9
    )


def test_the_head_is_exact(net):
    model, batches = net
    placement = jw.place(model, weights=jw.Crossbar(sigma=2e-6, clip=False), include=["2.weight"])
    at_mean = Fisher(seed=1, higher_order=False)
    one = jw.predict(placement, batches, at={"g_max": 4e-5}, method=at_mean)
    at_mean = Fisher(seed=2, higher_order=False)
    other = jw.predict(placement, batches, at={"g_max": 4e-5}, method=at_mean)
    assert float(one.divergence) == float(other.divergence)
    information = exact_information(model, batches, "2.weight")
    with jw.placement.private_memory(placement) as loaded:
        var = loaded.moments(placement.points({"g_max": 4e-5}))["2.weight"].var
    expected = float((var.double() * information).sum()) / 2 / 24
    assert float(one.contributions["2.weight"]) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(
    ("memory", "at"),
    [
        (jw.Crossbar(sigma=1e-6), {"g_max": 4e-5}),
        (jw.Crossbar(sigma=1e-6, clip=False), {"g_max": 3e-5}),
        (jw.PCM(), {"seconds": 86400.0}),
        (jw.SRAM(bits=8, channel_dim=0), {"eta": 0.55}),
        (jw.SRAM(bits=8, fault=jw.Flip()), {"eta": 0.6}),
    ],
)
@pytest.mark.parametrize("model", ["net", "gpt"])
def test_the_divergence_is_that_of_chips(request, model, memory, at):
    model, batches = request.getfixturevalue(model)
    example = (
        batches[0][0] if isinstance(batches[0], tuple) else {"input_ids": batches[0]["input_ids"]}
    )
    tables = ["*.wte.weight", "*.wpe.weight"] if isinstance(batches[0], dict) else []
    analog = isinstance(memory, (jw.Crossbar, jw.PCM))
    placement = jw.place(
        model, weights=memory, exclude=tables[1:] if analog else [], example_inputs=example
    )
    found = jw.predict(placement, batches, at=at, method=Fisher(draws=8, most_draws=64, seed=2**61))
    chips = jw.simulate(placement, batches, at=at, chips=400, metric=KLDivergence())
    reach = chips.interval(0.999).half_width + 3.3 * (found.standard_error or 0.0)
    # Terms of higher order: a tenth, at divergences of up to 0.05 nats.
    assert float(found.divergence) == pytest.approx(
        chips.mean, abs=reach + 0.1 * float(found.divergence)
    )


def test_loss_and_perplexity(net):
    model, batches = net
    placement = jw.place(model, weights=jw.Crossbar(sigma=1e-6), example_inputs=batches[0][0])
    at = {"g_max": 4e-5}
    found = jw.predict(placement, batches, at=at, method=Fisher(draws=8))
    chips = jw.simulate(placement, batches, at=at, chips=300, metric=NegativeLogLikelihood())
    assert found.given == pytest.approx(chips.original, rel=1e-6)
    reach = chips.interval(0.999).half_width + 3.3 * found.loss_standard_error
    assert found.loss == pytest.approx(chips.mean, abs=reach)
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    bare = jw.predict(placement, [inputs for inputs, _ in batches], at=at, method="fisher")
    assert bare.loss is None and bare.perplexity is None and "nats" in repr(bare)
    assert bare.to_dict()["loss"] is None


def test_planes_of_independent_flips_add_up(net):
    model, batches = net
    memory = jw.SRAM(bits=6, fault=jw.Flip(), channel_dim=0)
    placement = jw.place(model, weights=memory, include=["0.weight"])
    found = jw.predict(placement, batches, at={"eta": 0.8}, method="fisher")
    planes = found.by_plane["0.weight"]
    assert len(planes) == 6
    assert float(planes.sum()) == pytest.approx(float(found.contributions["0.weight"]), rel=1e-9)
    assert (planes[1:] > planes[:-1]).all()


def test_gradients_in_the_points_are_refused(net):
    model, batches = net
    placement = jw.place(model, weights=jw.SRAM(bits=8), example_inputs=batches[0][0])
    eta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    with pytest.raises(InputError, match="allowed: points without gradients, or joulewise.error"):
        jw.predict(placement, batches, at={"eta": eta}, method="fisher")
    errors = jw.error_model(placement, batches, at={"eta": 0.7}, of="divergence")
    (slope,) = torch.autograd.grad(errors.error({"eta": eta}), eta)
    ends = [float(errors.error({"eta": float(eta.detach()) + step})) for step in (1e-5, -1e-5)]
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4)


class Changed(nn.Module):
    """A head whose output is changed in place, or that is used twice."""

    def __init__(self, net, how):
        super().__init__()
        self.body, self.head, self.how = net[:2], net[2], how
        self.back = nn.Linear(5, 12)

    def forward(self, x):
        logits = self.head(self.body(x))
        if self.how == "scaled":
            logits *= 2.0
        return self.head(self.back(logits)) if self.how == "twice" else logits


@pytest.mark.parametrize("how", ["scaled", "twice", "hook", "bias"])
def test_heads_that_are_none(net, how):
    """Logits that are not the output of one call of the head, as it is."""
    with seeded(0):
        model = Changed(copy.deepcopy(net[0]), how).eval()
    if how == "hook":
        model.head.register_forward_hook(lambda module, args, output: 2 * output)
    data = [inputs for inputs, _ in net[1]]
    placement = jw.place(
        model,
        weights=jw.Crossbar(sigma=1e-6, clip=False),
        include=["head.weight"],
        example_inputs=data[0],
    )
    if how == "bias":
        placement = jw.place(model, weights=jw.SRAM(bits=8), include=["head.*"])
        assert float(jw.predict(placement, data, at={"eta": 0.6}, method="fisher").divergence) > 0
        return
    at = {"g_max": 4e-5}
    found = jw.predict(placement, data, at=at, method=Fisher(draws=64, most_draws=200))
    chips = jw.simulate(placement, data, at=at, chips=200, metric=KLDivergence())
    reach = chips.interval(0.999).half_width + 3.3 * found.standard_error
    assert float(found.divergence) == pytest.approx(chips.mean, abs=reach + 0.1 * chips.mean)


def test_quantiles_over_chips():
    """A head with a common offset, read by an outlier: most chips lose nothing, few a lot."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Identity(), nn.Linear(8, 500, bias=False))
    weight = 0.3 * torch.randn(500, 8, generator=generator)
    weight[:, 2] -= 0.8
    model[1].weight.data = weight
    inputs = torch.randn(5, 8, generator=generator)
    inputs[:, 2] += 14.0
    memory, at = jw.SRAM(bits=8, channel_dim=0), {"eta": 0.65}
    placement = jw.place(model.eval(), weights=memory, example_inputs=inputs)
    found = jw.predict(placement, [inputs], at=at, method="fisher")
    chips = jw.simulate(placement, [inputs], at=at, chips=2000, metric=KLDivergence())
    assert found.quantiles[0.5] < float(found.divergence) < found.quantiles[0.99]
    values = torch.tensor(chips.values, dtype=torch.float64)
    for level in (0.95, 0.99):
        # Ranks of the chips that bracket the quantile with 99.99 % confidence.
        reach = 3.9 * (level * (1 - level) / len(values)) ** 0.5
        low, high = (float(values.quantile(min(level + s * reach, 1.0))) for s in (-1, 1))
        assert 0.8 * low <= found.quantiles[level] <= 1.25 * high
    assert "quantiles over chips" in str(found) and found.to_dict()["quantiles"]["0.95"] > 0
    crossbar = jw.place(model, weights=jw.Crossbar(sigma=1e-6), example_inputs=inputs)
    assert not jw.predict(crossbar, [inputs], at={"g_max": 4e-5}, method="fisher").quantiles


@pytest.mark.parametrize(("channel_dim", "group"), [(None, None), (0, None), (1, None), (0, 4)])
def test_scales_of_the_head(net, channel_dim, group):
    model, batches = net
    memory = jw.SRAM(bits=8, channel_dim=channel_dim, group_size=group)
    placement = jw.place(model, weights=memory)
    at = {"eta": 0.5}
    found = jw.predict(placement, batches, at=at, method=Fisher(draws=16, most_draws=64))
    chips = jw.simulate(placement, batches, at=at, chips=1500, metric=KLDivergence())
    reach = chips.interval(0.999).half_width + 3.3 * found.standard_error
    assert float(found.divergence) == pytest.approx(chips.mean, abs=reach + 0.1 * chips.mean)


def test_a_divergence_that_rounding_makes_negative(net):
    model, batches = net
    placement = jw.place(
        model, weights=jw.SRAM(bits=16, channel_dim=0), example_inputs=batches[0][0]
    )
    errors = jw.error_model(placement, batches, at={"eta": 1.0}, of="divergence")
    assert float(errors.error({"eta": 1.0})) >= 0


def test_models_in_double_precision(net):
    model, batches = net
    twice = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 5)).double()
    twice.load_state_dict(model.state_dict())
    data = [(inputs.double(), targets) for inputs, targets in batches]
    placement = jw.place(twice, weights=jw.SRAM(bits=8))
    found = jw.predict(placement, data, at={"eta": 0.6}, method=Fisher(channels=True))
    assert float(found.by_channel["0.weight"].sum()) == pytest.approx(
        float(found.contributions["0.weight"]), rel=1e-9
    )


def test_error_models_of_the_divergence_are_the_forecast_at_other_points(net, gpt):
    for model, batches in (net, gpt):
        placement = jw.place(model, weights=jw.SRAM(bits=8, fault=jw.Flip(), channel_dim=0))
        errors = jw.error_model(placement, batches, at={"eta": 0.7}, of="divergence")
        draws = max(2, math.ceil(16 / len(batches)))
        method = Fisher(draws=draws, most_draws=draws, higher_order=False)
        forecast = jw.predict(placement, batches, at={"eta": 0.7}, method=method)
        _, found = errors.shift_and_variance(placement.points({"eta": 0.7}))
        for name, part in forecast.contributions.items():  # the same draws
            assert float(found[name]) == pytest.approx(float(part), rel=1e-5)
        # Elsewhere gradients are held fixed.
        _, found = errors.shift_and_variance(placement.points({"eta": 0.75}))
        there = jw.predict(placement, batches, at={"eta": 0.75}, method=method)
        whole = float(sum(found.values()))
        assert whole == pytest.approx(float(there.total_contribution), rel=0.1)
        plan = {name: {"eta": 0.75} for name in (p.name for p in placement.placed)}
        changed = {**plan, placement.placed[-1].name: {"eta": 0.6}}
        points, moved = (placement.points(jw.Plan(one)) for one in (plan, changed))
        name = placement.placed[-1].name
        tried = torch.tensor([[0.6]], dtype=torch.float64)
        _, variance = errors.single_changes(points, name, tried)
        _, before = errors.output_errors(points)
        _, after = errors.output_errors(moved)
        assert float(variance[0, 0]) == pytest.approx(float(after[name] - before[name]), rel=1e-6)


def test_shifts_of_error_models(net):
    """Exact at the plan of the linearisation, with its slope; quadratic near it."""
    model, batches = net
    placement = jw.place(model, weights=jw.SRAM(bits=8, channel_dim=0))

    def exact(eta):
        return jw.predict(placement, batches, at={"eta": eta}, method="fisher").mean_divergence

    def shift(errors, eta):
        return errors.shift_and_variance(placement.points({"eta": eta}))[0]

    errors = jw.error_model(placement, batches, at={"eta": 0.3}, of="divergence")
    assert float(shift(errors, 0.3)) == pytest.approx(float(exact(0.3)), rel=1e-5)
    slope = float(exact(0.3 + 1e-3) - exact(0.3 - 1e-3)) / 2e-3
    found = float(shift(errors, 0.3 + 1e-4) - shift(errors, 0.3 - 1e-4)) / 2e-4
    assert found == pytest.approx(slope, rel=1e-2)
    # The curvature is estimated from 12 draws: a mean over seeds, within its standard error.
    each = torch.stack(
        [
            shift(
                jw.error_model(placement, batches, at={"eta": 0.3}, of="divergence", seed=k), 0.26
            )
            for k in range(30)
        ]
    )
    error = float(each.std()) / len(each) ** 0.5
    expected = float(exact(0.26))
    assert float(each.mean()) == pytest.approx(expected, abs=4 * error + 0.1 * expected)


def test_a_plan_holds_a_perplexity(gpt):
    model, batches = gpt
    with torch.no_grad():
        likeliest = [model(input_ids=b["input_ids"]).logits.argmax(-1) for b in batches]
    data = [
        {"input_ids": b["input_ids"], "labels": torch.cat([b["input_ids"][:, :1], top[:, :-1]], 1)}
        for b, top in zip(batches, likeliest, strict=True)
    ]
    placement = jw.place(
        model,
        weights=jw.SRAM(bits=8, channel_dim=0),
        example_inputs={"input_ids": batches[0]["input_ids"]},
    )
    goal = jw.MetricDrop(0.05, relative=True)
    found = jw.allocate(placement, data, goal=goal, metric=jw.metrics.Perplexity(), chips=40)
    assert found.holds and found.simulation.mean <= 1.05 * found.simulation.ideal
    assert found.energy.normalised < 0.9


def test_more_draws_until_the_precision(net):
    model, batches = net
    placement = jw.place(model, weights=jw.Crossbar(sigma=1e-6), example_inputs=batches[0][0])
    rough, fine = (
        jw.predict(
            placement,
            batches,
            at={"g_max": 4e-5},
            method=Fisher(draws=4, precision=precision, most_draws=500),
        )
        for precision in (10.0, 0.02)
    )
    assert rough.draws == 4 * len(batches) < fine.draws
    assert fine.standard_error < 0.03 * float(fine.total_contribution)


def test_batches_of_several_lengths(gpt):
    model, batches = gpt
    short = [{k: v[:, :5] for k, v in batches[0].items()}, *batches[1:]]
    placement = jw.place(
        model, weights=jw.SRAM(bits=8), example_inputs={"input_ids": batches[0]["input_ids"]}
    )
    found = jw.predict(placement, short, at={"eta": 0.6}, method="fisher")
    assert found.rows == 2 * 4 + 6 * 11


def test_moments_are_estimated_once(net, monkeypatch):
    """An estimate takes many reads: not one for each draw."""
    model, batches = net
    weak = jw.CorrelatedMap(row=0.2)
    memory = jw.SRAM(bits=8, fault=jw.Flip(), fault_map=weak, protection=SECDED())
    placement = jw.place(model, weights=memory, example_inputs=batches[0][0])
    estimates, moments = [], Device.moments

    def counted(self, stored, point):
        estimates.append(point)
        return moments(self, stored, point)

    monkeypatch.setattr(Device, "moments", counted)
    counts = []
    for draws in (1, 4):
        method = Fisher(draws=draws, most_draws=draws)
        jw.predict(placement, batches, at={"eta": 0.4}, method=method)
        counts.append(len(estimates))
    assert counts[1] == 2 * counts[0]


def test_estimated_moments_are_not_written_to(net):
    """Noise of one draw is not that of the next."""
    model, batches = net
    weak = jw.CorrelatedMap(row=0.2)
    memory = jw.SRAM(bits=8, fault=jw.Flip(), fault_map=weak, protection=SECDED())
    placement = jw.place(model, weights=memory, example_inputs=batches[0][0])
    at = {"eta": 0.45}
    second = jw.predict(placement, batches, at=at, method=Fisher(draws=32, higher_order=False))
    found = jw.predict(placement, batches, at=at, method=Fisher(draws=32, most_draws=32))
    # Second order is within a third of all orders here; noise that adds up is orders beyond.
    assert float(found.divergence) == pytest.approx(float(second.divergence), rel=1 / 3)


def test_padding_on_the_left(gpt):
    """The first token does not count: its prediction would come from padding."""
    model, batches = gpt
    ids, mask = batches[0]["input_ids"], torch.ones(2, 12, dtype=torch.long)
    mask[0, :5] = 0
    data = [{"input_ids": ids, "attention_mask": mask, "labels": ids}]
    placement = jw.place(model, weights=jw.SRAM(bits=8), example_inputs={"input_ids": ids})
    found = jw.predict(placement, data, at={"eta": 0.6}, method="fisher")
    with torch.no_grad():
        labels = ids.masked_fill(mask == 0, -100)
        labels[0, 5] = -100
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    assert found.rows == 11 + 6 and found.given == pytest.approx(float(loss), rel=1e-5)


def test_batches_in_which_nothing_counts(gpt):
    model, batches = gpt
    placement = jw.place(
        model, weights=jw.SRAM(bits=8), example_inputs={"input_ids": batches[0]["input_ids"]}
    )
    ignored = {**batches[1], "labels": torch.full_like(batches[1]["labels"], -100)}
    some = [batches[0], ignored]
    found = jw.predict(placement, some, at={"eta": 0.6}, method="fisher")
    alone = jw.predict(placement, batches[:1], at={"eta": 0.6}, method="fisher")
    assert found.rows == alone.rows and found.given == pytest.approx(alone.given)
    assert float(found.mean_divergence) == pytest.approx(float(alone.mean_divergence))
    errors = jw.error_model(placement, some, at={"eta": 0.6}, of="divergence")
    assert float(errors.error({"eta": 0.6})) > 0
    mask = torch.zeros_like(batches[0]["labels"])
    unseen = [{"input_ids": batches[0]["input_ids"], "attention_mask": mask}]
    with pytest.raises(DataError, match="^the number of outputs that count is 0; allowed: 1 or m"):
        jw.predict(placement, unseen, at={"eta": 0.6}, method="fisher")


def test_inputs_that_require_gradients(gpt):
    """They are constants: placed activations count, and the caller's tensor gets no gradient."""
    model, batches = gpt
    vectors = model.transformer.wte(batches[0]["input_ids"]).detach()
    own = vectors.clone().requires_grad_()
    placement = jw.place(
        model,
        kv_cache=jw.SRAM(bits=8),
        example_inputs={"inputs_embeds": vectors},
    )
    method = Fisher(draws=4)
    one, other = (
        jw.predict(placement, [{"inputs_embeds": x}], at={"eta": 0.5}, method=method)
        for x in (vectors, own)
    )
    assert other.contributions == one.contributions and float(one.total_contribution) > 0
    assert own.grad is None


def test_rows_that_count():
    logits = torch.randn(2, 4, 7)
    labels = torch.tensor([[1, 2, 3, 4], [5, -100, 6, -100]])
    batch = Batch({"input_ids": labels}, labels, labels=True)
    mask, classes = counted_rows(NextToken(NegativeLogLikelihood()), batch, logits)
    assert classes.tolist() == [2, 3, 4, 6]
    assert mask.tolist() == [[True, True, True, False], [False, True, False, False]]
    mask, classes = counted_rows(None, batch, logits)
    assert mask.all() and classes is None
    seen = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    masked = Batch({"input_ids": labels, "attention_mask": seen}, None)
    mask, classes = counted_rows(None, masked, logits)
    assert torch.equal(mask, seen.bool()) and classes is None
    wrong = Batch({"input_ids": labels}, labels + 4, labels=True)
    with pytest.raises(DataError, match="^a target is 7; allowed: 0 to 6, or -100"):
        counted_rows(NegativeLogLikelihood(), wrong, logits)
    with pytest.raises(DataError, match="^the target is float32 .2, 4.; allowed: classes"):
        counted_rows(NegativeLogLikelihood(), Batch(logits, logits[..., 0]), logits)
    with pytest.raises(ModelError, match="allowed: logits .batch, classes. or"):
        counted_rows(None, batch, logits[..., None, :])


def test_what_is_refused(net):
    model, batches = net
    placement = jw.place(model, weights=jw.SRAM(bits=8), example_inputs=batches[0][0])
    with pytest.raises(InputError, match="^most_draws is 1; allowed: "):
        Fisher(draws=2, most_draws=1)
    with pytest.raises(InputError, match="^draws is 2.5"):
        Fisher(draws=2.5)
    with pytest.raises(InputError, match="^precision is 0"):
        Fisher(precision=0.0)
    single = nn.Linear(6, 1)
    placement = jw.place(single, weights=jw.SRAM(bits=8))
    with pytest.raises(ModelError, match="allowed: logits"):
        jw.predict(placement, [torch.randn(3, 6)], at={"eta": 0.6}, method="fisher")


def test_experts_and_their_choice():
    with seeded(0):
        model = mixtral()
        for parameter in model.parameters():
            parameter.data *= 4 if parameter.ndim > 1 else 1
    ids = torch.randint(53, (6, 12), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": some} for some in ids.split(2)]
    example, at = {"input_ids": ids[:1]}, {"eta": 0.3}
    ratios = []
    for names in (["*layers.1*experts*"], ["*layers.1.mlp.gate*"]):
        placement = jw.place(model, weights=jw.SRAM(), include=names, example_inputs=example)
        found = jw.predict(placement, data, at=at, method=Fisher(draws=16))
        chips = jw.simulate(placement, data, at=at, chips=200, metric=KLDivergence())
        error = 3.3 * found.standard_error + chips.interval(0.999).half_width
        ratios.append((float(found.divergence) / chips.mean, error / chips.mean))
    for ratio, error in ratios:
        assert ratio == pytest.approx(1.0, abs=0.1 + error)


def test_models_without_a_head_are_refused(gpt):
    """Also without labels, where the size of the hidden state is not seen to be wrong."""
    model, batches = gpt
    placement = jw.place(model.transformer, weights=jw.SRAM())
    with pytest.raises(ModelError, match="without a head, .*; allowed: one whose outputs are log"):
        jw.predict(placement, batches, at={"eta": 0.5}, method="fisher")
    alone = [{"input_ids": batch["input_ids"]} for batch in batches]
    with pytest.raises(ModelError, match="without a head"):
        jw.predict(placement, alone, at={"eta": 0.5}, method="fisher")
    goal, metric = jw.MetricDrop(0.02, relative=True), jw.metrics.Perplexity()
    traced = jw.place(model.transformer, weights=jw.SRAM(), example_inputs=alone[0])
    with pytest.raises(ModelError, match="without a head"):
        jw.allocate(traced, batches, goal=goal, metric=metric, chips=20)


@pytest.mark.parametrize("channels", [False, True])
def test_large_single_faults_are_tried(net, channels):
    """Rare faults: the divergence is the sum over single ones, here by one pass each."""
    model, batches = net
    model = copy.deepcopy(model)
    model[2].weight.data *= 5  # of the order of 20 nats: a fault moves a row from class to class
    memory, at = jw.SRAM(bits=8), {"eta": 0.95}
    placement = jw.place(model, weights=memory, include=["0.weight"], example_inputs=batches[0][0])
    inputs = torch.cat([inputs for inputs, _ in batches])
    stored = memory.store(model[0].weight)
    faulty, exact = copy.deepcopy(model), 0.0
    faulty[0].weight.data.copy_(memory.ideal(stored))
    words = faulty[0].weight.detach().clone()
    given, index = model(inputs).log_softmax(-1), memory.word_classes(stored).index.long()

    def divergence():
        return float((given.exp() * (given - faulty(inputs).log_softmax(-1))).sum(-1).mean())

    shifts, holds = memory.single_faults
    rates = memory.wrong_rates(memory.knob.points(torch.tensor(0.95)))
    with torch.no_grad():
        least = divergence()
        for row, column in torch.cartesian_prod(*map(torch.arange, words.shape)):
            for bit in range(8):
                faulty[0].weight[row, column] += shifts[bit, index[row, column]] * stored.scale
                found = divergence()
                faulty[0].weight[row, column] = words[row, column]
                rate = float(rates[holds[bit, index[row, column]], bit])
                exact += rate * (found - least)
    method = Fisher(draws=400, most_draws=400, channels=channels)
    found = jw.predict(placement, batches, at=at, method=method)
    assert sum(found.large_faults.values()) > 0.2 * exact
    predicted = float(found.total_contribution)
    # Noise of small faults is taken to be Gaussian.
    reach = 0.1 * exact + 4 * found.standard_error
    assert float(found.divergence) - least == pytest.approx(exact, abs=reach)
    assert found.standard_error < 0.05 * exact
    by_plane = float(found.by_plane["0.weight"].sum())
    assert by_plane == pytest.approx(predicted, rel=1e-4)  # pairs of faults in a word are rarer
    if channels:
        by_channel = float(found.by_channel["0.weight"].sum())
        assert by_channel == pytest.approx(predicted, rel=1e-9)
    second = jw.predict(placement, batches, at=at, method=Fisher(draws=50, higher_order=False))
    assert abs(float(second.total_contribution) / exact - 1) > 0.1  # far from second order


def test_the_loss_of_an_overconfident_classifier(net):
    """Its loss grows less than the divergence: targets are not distributed as it says."""
    model, batches = net
    sharp = copy.deepcopy(model)
    sharp[2].weight.data *= 5
    placement = jw.place(
        sharp, weights=jw.Crossbar(sigma=1e-6, clip=False), example_inputs=batches[0][0]
    )
    at = {"g_max": 5e-5}
    found = jw.predict(placement, batches, at=at, method=Fisher(draws=200, most_draws=200))
    chips = jw.simulate(placement, batches, at=at, chips=2000, metric=NegativeLogLikelihood())
    reach = chips.interval(0.999).half_width + 3.3 * found.loss_standard_error
    assert found.loss == pytest.approx(chips.mean, abs=reach)
    assert found.loss_excess < -0.1 * float(found.divergence)


def test_tied_tables_in_word_memories():
    """The input table has noise, the head that is tied to it has its faults one by one."""
    with seeded(0):
        table, body = nn.Embedding(9, 8), nn.Linear(8, 8)
        head = nn.Linear(8, 9, bias=False)
        head.weight = table.weight
        model = nn.Sequential(table, body, nn.Tanh(), head).eval()
        ids = torch.randint(9, (60, 1))
    placement = jw.place(
        model,
        weights=jw.SRAM(bits=8, fault=Flip()),
        exclude=["*bias"],
        example_inputs=ids[:1],
    )
    data, at = list(ids.split(10)), {"eta": 0.75}
    found = jw.predict(placement, data, at=at, method=Fisher(draws=40))
    second = jw.predict(placement, data, at=at, method=Fisher(draws=40, higher_order=False))
    chips = jw.simulate(placement, data, at=at, chips=4000, metric=KLDivergence())
    reach = chips.interval(0.999).half_width + 3.3 * found.standard_error
    assert float(found.divergence) == pytest.approx(chips.mean, abs=reach)
    for name, part in found.contributions.items():
        assert float(part) == pytest.approx(float(second.contributions[name]), rel=0.25)


def test_points_by_channel_of_a_head():
    """Classes fail at their own rates: unlikely ones cost by large faults, likely ones do not."""
    generator = torch.Generator().manual_seed(0)
    weight = 0.3 * torch.randn(60, 8, generator=generator)
    weight[:30, 2] -= 0.8
    weight[30:] *= 0.2
    weight[30:, 2] += 0.16
    inputs = torch.randn(5, 8, generator=generator)
    inputs[:, 2] += 14.0
    model = nn.Sequential(nn.Identity(), nn.Linear(8, 60, bias=False)).eval()
    model[1].weight.data = weight
    placement = jw.place(model, weights=jw.SRAM(bits=8, channel_dim=0), example_inputs=inputs)

    def plan(unlikely, likely):
        eta = [[unlikely]] * 30 + [[likely]] * 30
        return placement.plan({"eta": torch.tensor(eta, dtype=torch.float64)})

    together = {}
    for etas in ((0.6, 0.6), (0.6, 1.0), (1.0, 0.6)):
        forecast = jw.predict(placement, [inputs], at=plan(*etas), method=Fisher(draws=4))
        together[etas] = float(forecast.total_contribution)
        found = jw.simulate(placement, [inputs], at=plan(*etas), chips=3000, metric=KLDivergence())
        error = 3 * found.interval().half_width / 1.96
        assert float(forecast.divergence) == pytest.approx(found.mean, abs=error), etas
    # Faults are rare, so that those of both halves add up.
    parts = together[0.6, 1.0] + together[1.0, 0.6]
    assert parts == pytest.approx(together[0.6, 0.6], rel=0.05)
    assert together[0.6, 1.0] < 0.8 * together[0.6, 0.6]
    with pytest.raises(InputError, match="granularity is by output channel for 1.weight, which"):
        jw.error_model(placement, [inputs], at=plan(0.6, 0.6), of="divergence")


def test_large_faults_are_found_in_one_batch_too(net):
    model, batches = net
    model = copy.deepcopy(model)
    model[2].weight.data *= 5
    placement = jw.place(
        model, weights=jw.SRAM(bits=8), include=["0.weight"], example_inputs=batches[0][0]
    )
    whole = [torch.cat([inputs for inputs, _ in batches])]
    found = [
        jw.predict(placement, data, at={"eta": 0.7}, method=Fisher(draws=64, most_draws=64))
        for data in (whole, list(whole[0].split(6)))
    ]
    one, several = (sum(forecast.large_faults.values()) for forecast in found)
    assert one > 0.7 * several
