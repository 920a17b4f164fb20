"""The core trains any object with the protocol, not the learned ranges of contrib alone."""

import pytest
import torch
from torch import nn

from joulewise.data import Dataset, Split
from joulewise.devices import SRAM
from joulewise.models import build
from joulewise.placement import place
from joulewise.training import TrainingMemory, TrainingSpec, WeightRanges, train


class OneRange:
    """One trainable range for all weights."""

    def __init__(self, placement, alpha):
        self.placement, self.alpha = placement, nn.Parameter(torch.tensor(alpha))
        self.calls = []

    def check_fits(self, placement):
        assert placement is self.placement
        self.calls.append("check")

    def keep_positive(self):
        self.calls.append("positive")

    def by_name(self):
        return dict.fromkeys(self.placement.most_reliable(), self.alpha)

    def parameters(self):
        return [self.alpha]

    def clip(self):
        self.calls.append("clip")

    def describe(self):
        return {"all": self.alpha.item()}


def placed():
    model = build("mlp", (5,), 3, seed=0)
    return model, place(model, weights=SRAM(bits=8))


def test_in_a_block_weights_are_clipped_and_ranges_get_gradients():
    model, placement = placed()
    ranges: WeightRanges = OneRange(placement, 0.02)
    assert all(model.get_parameter(n).abs().max() > 0.03 for n in placement.most_reliable())
    with TrainingMemory(placement, perfect=True, ranges=ranges):
        for name in placement.most_reliable():
            assert model.get_parameter(name).abs().max().item() == pytest.approx(0.02)
        model(torch.ones(2, 5)).square().sum().backward()
    assert ranges.alpha.grad != 0
    assert ranges.calls == ["check", "positive"]


def test_the_loop_steps_them_with_their_decay_and_clips_at_the_end():
    model, placement = placed()
    inputs = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    split = Split(inputs=inputs, targets=torch.arange(16) % 3)
    data = Dataset(name="toy", train=split, test=split, classes=3, flips=False)
    ranges = OneRange(placement, 1e3)  # clips nothing, so that decay is all
    spec = TrainingSpec(
        epochs=1, batch_size=16, lr=0.1, momentum=0.0, warmup=0.0, method="sam", range_decay=0.5
    )
    memory = TrainingMemory(placement, perfect=True, ranges=ranges)
    record = train(model, data, spec, memory=memory)
    assert ranges.alpha.item() == pytest.approx(1e3 * (1 - 0.1 * 0.5))
    assert record.memory["ranges"] == {"all": ranges.alpha.item()}
    assert ranges.calls == ["check", "positive", "clip"]
