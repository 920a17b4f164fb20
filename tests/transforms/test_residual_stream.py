"""Readers and writers of a residual stream, in decoders small enough to list them."""

from contextlib import ExitStack

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from joulewise.errors import ModelError
from joulewise.transforms.folding import Offset
from joulewise.transforms.residual_stream import matrix_of, watch

IDS = torch.arange(6).reshape(2, 3)


class Decoder(nn.Module):
    """Two blocks without attention; the first layer stores its weight transposed, as GPT-2 does."""

    def __init__(self):
        super().__init__()
        self.table, self.positions = nn.Embedding(7, 8), nn.Embedding(3, 8)
        self.offset = Offset(torch.ones(8))
        self.norms = nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8)])
        self.up = nn.ModuleList([Conv1D(5, 8), nn.Linear(8, 5)])
        self.down = nn.ModuleList([nn.Linear(5, 8), nn.Linear(5, 8)])
        self.head = nn.Linear(8, 7, bias=False)

    def forward(self, ids):
        x = self.offset(self.table(ids)) + self.positions(torch.arange(ids.shape[1]))
        for norm, up, down in zip(self.norms, self.up, self.down, strict=False):
            x = x + 0.5 * down(nn.functional.gelu(up(norm(x))))
        return self.head(self.norms[2](x))


def stream_of(model, ids=IDS):
    with torch.no_grad(), ExitStack() as block:
        stream = watch(model, block)
        model(ids)
    return stream


def test_readers_and_writers_of_a_decoder():
    model = Decoder()
    stream = stream_of(model)
    assert stream.readers == dict(zip([*model.up, model.head], model.norms, strict=True))
    assert {*stream.writers} == {model.table, model.positions, model.offset, *model.down}
    assert not any(module._forward_hooks for module in model.modules())


def test_weights_are_rows_of_outputs():
    model = Decoder()
    for layer in model.up:
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(layer(x), x @ matrix_of(layer).mT + layer.bias, atol=1e-6)


def test_a_layer_that_reads_two_norms_is_refused():
    model = Decoder()
    model.up[1] = model.up[0]
    with pytest.raises(ModelError, match="a layer is one that reads two norms; allowed: a layer"):
        stream_of(model)
