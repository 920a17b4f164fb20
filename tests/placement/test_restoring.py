import pytest
import torch
from torch import nn

from joulewise.errors import ModelError
from joulewise.placement.restoring import plain_execution


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(state, model):
    now = model.state_dict()
    return list(state) == list(now) and all(torch.equal(state[name], now[name]) for name in state)


class Restless(nn.Module):
    """Changes whatever a forward pass can change."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))
        self.register_buffer("steps", torch.zeros(1))
        self.register_buffer("signed", torch.tensor([-1.0, 1.0]))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("nan", torch.full((2,), torch.nan))
        self.register_buffer("unset", None)
        self.register_buffer("hidden", torch.zeros(2), persistent=False)
        self.cache = None
        self.calls = 0

    def forward(self, inputs):
        with torch.no_grad():
            self.weight.mul_(3)
        self.steps += 1
        self.signed.data.abs_()  # leaves the version counter as it is
        self.mean = inputs.mean(0)
        self.nan.zero_()
        self.unset = inputs[0]
        self.hidden.data = inputs[1]
        self.register_buffer("late", inputs.clone())
        self.cache = inputs @ self.weight
        self.calls += 1
        return self.cache


def test_whatever_a_forward_pass_changes_is_put_back():
    model = Restless()
    before, own = state(model), dict(model.named_buffers())
    weight, storage = model.weight, model.weight.data_ptr()
    with plain_execution(model):
        model(torch.ones(2, 2))
        model(torch.ones(2, 2))
        assert model.calls == 2 and not same(before, model)
    before.pop("nan")
    after = state(model)
    assert after.pop("nan").isnan().all()
    assert list(after) == list(before) and all(torch.equal(after[n], before[n]) for n in before)
    assert all(buffer is own[name] for name, buffer in model.named_buffers())
    assert torch.equal(model.hidden, torch.zeros(2))
    assert model.cache is None and model.calls == 0 and model.unset is None
    assert model.weight is weight and weight.data_ptr() == storage and weight.requires_grad
    assert not hasattr(model, "late")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_after_an_exception_too(error):
    model = Restless()
    before = state(model)
    before.pop("nan")
    with pytest.raises(error), plain_execution(model):
        model(torch.ones(2, 2))
        raise error
    after = state(model)
    after.pop("nan")
    assert list(after) == list(before) and all(torch.equal(after[n], before[n]) for n in before)
    assert model.calls == 0


def test_every_module_has_its_own_mode_back():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)))
    model.train()
    model[1].eval()
    model[1][0].train()
    modes = [module.training for module in model.modules()]
    with plain_execution(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_fused_transformer_path_is_off_inside_only(enabled):
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        with plain_execution(nn.Linear(1, 1)):
            assert not torch.backends.mha.get_fastpath_enabled()
        assert torch.backends.mha.get_fastpath_enabled() is enabled
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def test_a_backward_pass_over_a_graph_from_before():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    inputs = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    loss = model(inputs).square().sum()
    with plain_execution(model):
        model(inputs)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_tensors_made_in_inference_mode():
    with torch.inference_mode():
        model = nn.BatchNorm1d(2)
    with plain_execution(model), torch.inference_mode():
        model.running_mean.add_(1)
    assert torch.equal(model.running_mean, torch.zeros(2))


@pytest.mark.parametrize("layer", [nn.LazyLinear(3), nn.LazyBatchNorm1d(affine=False)])
def test_a_lazy_layer_is_refused(layer):
    with (
        pytest.raises(ModelError, match="the shape of 0.* is not known yet; allowed: a model that"),
        plain_execution(nn.Sequential(layer)),
    ):
        pass
