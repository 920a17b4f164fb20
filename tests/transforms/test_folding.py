"""Orthogonal matrices and replaced modules."""

import torch
from torch import nn

from joulewise.transforms.folding import Offset, hadamard, orthogonal, replace_modules


def test_matrices_are_orthogonal_and_of_their_seed():
    one, same, other = (orthogonal(12, seed, torch.device("cpu")) for seed in (0, 0, 1))
    assert torch.allclose(one @ one.mT, torch.eye(12).double(), atol=1e-6)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_hadamard_matrices_are_orthogonal_with_entries_of_one_magnitude():
    one, other = (hadamard(16, seed, torch.device("cpu")) for seed in (0, 1))
    assert torch.allclose(one @ one.mT, torch.eye(16).double(), atol=1e-12)
    assert bool((one.abs() == 0.25).all()) and not torch.equal(one, other)


def test_uses_of_a_module_are_all_replaced():
    layer = nn.Linear(2, 2)
    model = nn.ModuleList([nn.Sequential(layer), nn.Sequential(layer)])
    replace_modules(model, {layer: Offset(torch.ones(2))})
    assert all(isinstance(part[0], Offset) for part in model)
