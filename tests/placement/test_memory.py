from collections import OrderedDict, namedtuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from cases import CHIP, ETA, MODELS, A, Function, W, make, parameter, placed, rand, snapshot
from gaussian_memory import GaussianMemory
from joulewise.devices import SRAM, Chip, Flip, Stuck
from joulewise.errors import InputError, ModelError, WeightsError
from joulewise.models import build
from joulewise.placement import call, loaded, place, private_memory
from joulewise.words import FixedPoint


@pytest.fixture(autouse=True)
def plain_attention():
    """Outputs of the model on its own are those of its layers, not of a fused kernel."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize("activations", [False, True], ids=["weights", "and activations"])
@pytest.mark.parametrize("kind", MODELS)
def test_any_model(kind, activations):
    model, inputs = make(kind)
    model.eval()
    with torch.no_grad():
        untouched = call(model, inputs)
    model.train()
    check = snapshot(model)
    placement = placed(model, inputs, activations)
    check()
    plan = placement.points({"eta": ETA})
    with private_memory(placement) as memory:
        ideal = memory.call(inputs)
        memory.read(plan, CHIP)
        assert memory.differs()
        struck = memory.call(inputs)
        assert not torch.equal(struck, ideal)
        for name in plan:
            memory.read(placement.points(placement.most_reliable()) | {name: 0.01}, CHIP)
            assert not torch.equal(memory.call(inputs), ideal), f"{name} is not read"
        memory.original()
        assert torch.equal(memory.call(inputs), untouched)
        memory.read(plan, CHIP)
        assert torch.equal(memory.call(inputs), struck)
        memory.ideal()
        assert not memory.differs()
        assert torch.equal(memory.call(inputs), ideal)
    check()
    model.eval()
    with torch.no_grad():
        assert torch.equal(call(model, inputs), untouched)
    if not isinstance(model, torch.jit.ScriptModule):
        parameters = list(model.parameters())
        grads = torch.autograd.grad(
            call(model, inputs).float().sum(), parameters, allow_unused=True
        )
        assert any(grad is not None for grad in grads)


@pytest.mark.parametrize(
    "kind", ["linear", "depthwise", "channels last", "lstm", "attention", "tied"]
)
@pytest.mark.parametrize(
    "device",
    [W, SRAM(bits=4, channel_dim=0), SRAM(bits=8, fault=Flip()), SRAM(bits=3, fault=Stuck())],
    ids=["mask", "per channel", "flip", "stuck"],
)
def test_reading_is_replacing_each_weight_by_hand(kind, device):
    model, inputs = make(kind)
    model.eval()
    placement = place(model, weights=device)

    def replaced(tensors):
        # As parameters: attention takes another kernel for weights that need no gradient.
        tensors = {name: nn.Parameter(tensor) for name, tensor in tensors.items()}
        with torch.no_grad():
            parts = inputs if isinstance(inputs, tuple) else (inputs,)
            out = torch.func.functional_call(model, tensors, parts)
        return out[0] if isinstance(out, tuple) else out

    own = dict(model.named_parameters())
    for seed, eta in ((0, 0.1), (1, 0.1), (0, 0.3), (1, 1.0)):
        by_hand = {
            name: device.read(device.store(own[name].detach()), eta, Chip(seed=seed, part=name))
            for name in placement.points({"eta": eta})
        }
        with private_memory(placement) as memory:
            memory.read(placement.points({"eta": eta}), Chip(seed=seed))
            actual = memory.call(inputs)
            now = dict(memory.placement.model.named_parameters())
            assert all(torch.equal(now[name], tensor) for name, tensor in by_hand.items())
        assert torch.equal(actual, replaced(by_hand))
    format = FixedPoint(bits=device.bits, channel_dim=device.channel_dim)
    names = placement.points({"eta": 1.0})
    rounded = {name: format.encode(own[name].detach()).values for name in names}
    with private_memory(placement) as memory:
        memory.ideal()
        actual = memory.call(inputs)
    torch.testing.assert_close(actual, replaced(rounded))


def test_both_owners_of_a_tied_weight_are_struck():
    for kind in ("tied", "shared storage"):
        model, inputs = make(kind)
        before = model[0].weight.detach().clone()
        with private_memory(placed(model, inputs)) as memory:
            memory.read({"0.weight": ETA}, CHIP)
            assert not torch.equal(memory.placement.model[0].weight, before)
            assert torch.equal(memory.placement.model[0].weight, memory.placement.model[1].weight)
            assert (
                memory.placement.model[0].weight.data_ptr()
                == memory.placement.model[1].weight.data_ptr()
            )


def test_activations_pass_through_the_memory_of_their_layer():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).eval()
    inputs, later = rand(7, 6), 3 * rand(2, 6)
    placement = place(model, activations=A, example_inputs=inputs)
    limits = {tensor.name: tensor.limit for tensor in placement.placed}
    assert limits["0:input"] == float(inputs.abs().max())

    def by_hand(batch, chip):
        def through(values, name):
            part = None if chip is None else chip.region(name)
            return A.round_trip(values, 0.2, part, limits[name])

        with torch.no_grad():
            hidden = model[1](model[0](through(batch, "0:input")))
            return model[2](through(hidden, "2:input"))

    expected = {
        (batch, chip): by_hand(data, chip)
        for batch, data in (("inputs", inputs), ("later", later))
        for chip in (None, CHIP)
    }
    with private_memory(placement) as memory:
        for batch, data in (("inputs", inputs), ("later", later)):
            memory.ideal()
            assert torch.equal(memory.call(data), expected[batch, None])
            memory.read(placement.points({"eta": 0.2}), CHIP)
            assert torch.equal(memory.call(data), expected[batch, CHIP])
            assert not memory.differs()


def test_every_sample_meets_the_same_cells():
    model = Function(
        lambda m, x: m.f(x.flatten(0, 1)).unflatten(0, (len(x), -1)), f=nn.Linear(4, 4)
    )
    inputs = rand(1, 5, 4).expand(6, -1, -1)
    placement = place(model, activations=A, example_inputs=inputs)
    with private_memory(placement) as memory:
        memory.read(placement.points({"eta": ETA}), CHIP)
        out = memory.call(inputs)
        assert all(torch.equal(sample, out[0]) for sample in out)
        assert not torch.equal(out[0, 0], out[0, 1])
        assert torch.equal(memory.call(inputs[:1]), out[:1])


def test_other_sequence_lengths_than_the_traced_one():
    model = Function(
        lambda m, x: m.f(x.flatten(0, 1)).unflatten(0, (len(x), -1)) + m.f(x[:, 0])[:, None],
        f=nn.Linear(4, 4),
    )
    placement = place(model, activations=A, example_inputs=rand(6, 5, 4))
    with private_memory(placement) as memory:
        memory.read(placement.points({"eta": ETA}), CHIP)
        for length in (1, 3, 10):
            inputs = rand(1, length, 4).expand(4, -1, -1)
            out = memory.call(inputs)
            assert all(torch.equal(sample, out[0]) for sample in out)


def test_a_first_axis_that_is_not_the_batch_is_refused_later_too():
    model = Function(lambda m, x: m.f(x[:1] if m.short else x), f=nn.Linear(4, 4))
    model.short = False
    placement = place(model, activations=A, example_inputs=rand(3, 4))
    model.short = True
    with (
        pytest.raises(ModelError, match=r"the shape of f:input is \(1, 4\); allowed: a first axis"),
        private_memory(placement) as memory,
    ):
        memory.call(rand(3, 4))


def test_a_layer_called_without_the_model_around_it():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    placement = place(model, activations=A, example_inputs=rand(3, 4))
    with private_memory(placement) as memory:
        memory.read(placement.points({"eta": ETA}), CHIP)
        memory.call(rand(3, 4))
        with torch.no_grad():
            stepwise = memory.placement.model[1](memory.placement.model[0](rand(5, 4)))
        assert torch.equal(stepwise, memory.call(rand(5, 4)))


Pair = namedtuple("Pair", "left right")


@pytest.mark.parametrize(
    "pack",
    [
        lambda x: [x, x + 1],
        lambda x: (x, (x + 1, "text")),
        lambda x: Pair(x, x + 1),
        lambda x: {"a": x, "b": [x + 1]},
        lambda x: OrderedDict(a=x, b=x + 1),
        lambda x: BaseModelOutput(last_hidden_state=x, hidden_states=(x + 1,)),
    ],
    ids=["list", "nested", "named tuple", "dict", "ordered dict", "of transformers"],
)
def test_inputs_of_a_layer_in_any_nesting(pack):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = parameter(4, 4)

        def forward(self, nested, *, other=None):
            kinds.add(type(nested))
            values = list(nested.values()) if isinstance(nested, dict) else list(nested)
            second = values[1] if isinstance(values[1], torch.Tensor) else values[1][0]
            return (values[0] - second) @ self.weight

    kinds = set()
    model = Function(lambda m, x: m.layer(pack(x), other=None), layer=Layer())
    placement = place(model, activations=A, example_inputs=rand(3, 4))
    assert [t.name for t in placement.placed] == ["layer:input", "layer:input1"]
    with private_memory(placement) as memory:
        ideal = memory.call(rand(3, 4))
        for name in placement.points({"eta": 1.0}):
            memory.read(placement.points(placement.most_reliable()) | {name: 0.01}, CHIP)
            assert not torch.equal(memory.call(rand(3, 4)), ideal)
    assert len(kinds) == 1


def test_chips_back_and_forth():
    model = build("cnn", (1, 8, 8), 4, seed=0)
    inputs = rand(3, 1, 8, 8)
    placement = place(model, weights=W, activations=A, example_inputs=inputs)
    plans = [placement.points({"eta": 0.2}), placement.points({"eta": 0.4})]
    first = {}
    with private_memory(placement) as memory:
        for chip in (0, 1, 0, 2, 1, 1, 0):
            for index, plan in enumerate(plans):
                memory.read(plan, Chip(seed=chip))
                out = memory.call(inputs)
                assert torch.equal(first.setdefault((chip, index), out), out)
    with private_memory(placement) as memory:
        for (chip, index), out in reversed(first.items()):
            memory.read(plans[index], Chip(seed=chip))
            assert torch.equal(memory.call(inputs), out)
    assert not torch.equal(first[0, 0], first[1, 0]) and not torch.equal(first[0, 0], first[0, 1])


@pytest.mark.parametrize("where", ["forward", "hook", "between"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_untouched_after_an_exception(where, error):
    model = build("resnet8", (3, 8, 8), 4, seed=0)
    model.stages.eval()
    inputs = rand(2, 3, 8, 8)
    placement = place(model, weights=W, activations=A, example_inputs=inputs)
    check = snapshot(model)

    def fail(*args):
        raise error

    refused = where != "between" and issubclass(error, (Exception, SystemExit))
    with pytest.raises(ModelError if refused else error), private_memory(placement) as memory:
        block = memory.placement.model.stages[1][0].first[0]
        memory.read(placement.points({"eta": ETA}), CHIP)
        if where == "between":
            fail()
        elif where == "forward":
            block.forward = fail
            memory.call(inputs)
        block.register_forward_hook(fail)
        memory.call(inputs)
    check()


def test_weights_that_cannot_be_stored_are_refused_by_name():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with torch.no_grad():
        model[1].weight[1, 1] = torch.nan
    placement = place(model, weights=W)
    kept = [parameter.data_ptr() for parameter in model.parameters()]
    with (
        pytest.raises(WeightsError, match=r"1\.weight is NaN or infinite in 1 of 9; allowed: fini"),
        private_memory(placement),
    ):
        pass
    assert [parameter.data_ptr() for parameter in model.parameters()] == kept
    assert all(module.training for module in model.modules())


def test_requires_grad_and_gradients_stay():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].weight.requires_grad_(False)
    model(rand(2, 3)).sum().backward()
    gradient = model[1].weight.grad
    check = snapshot(model)
    with private_memory(place(model, weights=W)) as memory:
        memory.read({"0.weight": ETA, "1.weight": ETA}, CHIP)
        assert not memory.placement.model(rand(2, 3)).requires_grad
    check()
    assert model[1].weight.grad is gradient
    model(rand(2, 3)).sum().backward()


def test_a_graph_from_before_still_has_its_gradients():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    expected = torch.autograd.grad(model(rand(2, 3)).sum(), list(model.parameters()))
    out = model(rand(2, 3)).sum()
    with private_memory(place(model, weights=W)) as memory:
        memory.read({"0.weight": ETA, "1.weight": ETA}, CHIP)
        memory.placement.model(rand(2, 3))
    actual = torch.autograd.grad(out, list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("built", [False, True], ids=["called", "built and called"])
def test_within_inference_mode(built):
    def make_model():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))

    if built:
        with torch.inference_mode():
            model = make_model()
    else:
        model = make_model()
    inputs = rand(2, 3, 6, 6)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.inference_mode():
        placement = place(model, weights=W, activations=A, example_inputs=inputs)
        with private_memory(placement) as memory:
            ideal = memory.call(inputs)
            memory.read(placement.points({"eta": ETA}), CHIP)
            assert not torch.equal(memory.call(inputs), ideal)
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert all(parameter.is_inference() is built for parameter in model.parameters())
    if not built:
        model(inputs).sum().backward()


def test_a_forward_pass_that_writes_to_its_weight_spoils_nothing():
    def forward(m, x):
        out = x @ m.w
        m.w.data.mul_(0)
        return out

    model = Function(forward, w=parameter(4, 4))
    check = snapshot(model)
    placement = place(model, weights=SRAM(bits=8), example_inputs=rand(3, 4))
    check()
    plan = placement.points({"eta": 1.0})
    with private_memory(placement) as memory:
        ideal = memory.call(rand(3, 4))
        for reset in (memory.ideal, lambda: memory.read(plan, CHIP), memory.ideal):
            reset()
            assert not memory.differs()
            assert torch.equal(memory.call(rand(3, 4)), ideal)
    check()


def test_loaded_within_loaded():
    model = nn.Linear(6, 4)
    check = snapshot(model)
    placement = place(model, weights=W)
    with private_memory(placement) as outer:
        outer.read({"weight": ETA}, CHIP)
        struck = outer.placement.model.weight.clone()
        with private_memory(placement) as inner:
            inner.read({"weight": 0.01}, Chip(seed=9))
            assert not torch.equal(inner.placement.model.weight, struck)
        assert torch.equal(outer.placement.model.weight, struck)
    check()


def test_the_words_are_those_of_the_moment_of_loading():
    model = nn.Linear(6, 4)
    placement = place(model, weights=W)
    with torch.no_grad():
        model.weight.fill_(2.0)
    with private_memory(placement):
        assert torch.equal(model.weight, torch.full((4, 6), 2.0))


STEPS = st.lists(
    st.one_of(
        st.just("original"),
        st.just("ideal"),
        st.tuples(st.integers(0, 3), st.sampled_from([0.01, 0.1, 0.3, 1.0])),
    ),
    max_size=6,
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(steps=STEPS, fails=st.booleans(), training=st.booleans())
def test_untouched_after_any_sequence(steps, fails, training):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    model.train(training)
    model[1].train(not training)
    check = snapshot(model)
    inputs = rand(2, 1, 4, 4)
    placement = place(model, weights=W, activations=A, example_inputs=inputs)
    outputs = {}
    try:
        with private_memory(placement) as memory:
            for step in steps:
                if step == "original":
                    memory.original()
                elif step == "ideal":
                    memory.ideal()
                else:
                    memory.read(placement.points({"eta": step[1]}), Chip(seed=step[0]))
                out = memory.call(inputs)
                assert torch.equal(outputs.setdefault(step, out), out)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    check()


def test_a_device_that_writes_to_what_it_is_given_leaves_the_model_alone():
    """A device of one's own may keep the tensor that it stores, and write to it."""

    class Careless(GaussianMemory):
        def store(self, tensor, *, limit=None, name=""):
            return tensor.clamp_(-0.1, 0.1)

        def read(self, stored, point, chip):
            return stored

    model = nn.Linear(3, 3)
    before = model.weight.detach().clone()
    placement = place(model, weights=Careless())
    with private_memory(placement) as memory:
        memory.read({"weight": 0.0}, CHIP)
        memory.placement.model.weight.data.mul_(0)
        memory.read({"weight": 0.0}, CHIP)
        assert torch.equal(memory.placement.model.weight, before.clamp(-0.1, 0.1))
    assert torch.equal(model.weight, before)


class Stopped(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        if not x.any():
            raise KeyboardInterrupt
        return self.layer(x)


def test_ctrl_c_in_a_loaded_copy_leaves_nothing_behind():
    model = Stopped()
    placement = place(model, weights=W)
    with pytest.raises(KeyboardInterrupt), loaded(placement, at={"eta": 0.5}) as faulty:
        faulty(torch.zeros(2, 3))
    model(torch.ones(2, 3))
    with loaded(placement, at={"eta": 0.1}, chip=3) as faulty:
        assert not torch.equal(faulty(torch.ones(2, 3)), model(torch.ones(2, 3)))


@pytest.mark.parametrize("before", [True, False])
def test_a_loaded_copy_that_computes_with_the_model_is_refused(before):
    model = nn.Linear(3, 3)
    if before:
        model.register_forward_pre_hook(lambda module, args: args[0] @ model.weight)
    else:
        model.register_forward_hook(lambda module, args, output: output + model.weight.sum())
    with (
        loaded(place(model, weights=W), at={"eta": 0.5}) as faulty,
        pytest.raises(ModelError, match="a copy of the model computes with weight of the model"),
    ):
        faulty(torch.ones(2, 3))
    assert torch._C._len_torch_dispatch_stack() == 0


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_loaded_takes_scripted_models_and_refuses_what_is_no_placement():
    scripted = torch.jit.script(nn.Linear(3, 3))
    with loaded(place(scripted, weights=W), at={"eta": 0.1}, chip=Chip(seed=4)) as faulty:
        assert not torch.equal(faulty(torch.ones(1, 3)), scripted(torch.ones(1, 3)))
    with (
        pytest.raises(InputError, match="placement is of type Linear"),
        loaded(nn.Linear(3, 3), at={"eta": 0.5}),
    ):
        pass
    with (
        pytest.raises(InputError, match="chip is -1"),
        loaded(place(nn.Linear(3, 3), weights=W), at={"eta": 0.5}, chip=-1),
    ):
        pass
