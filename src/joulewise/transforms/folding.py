"""Modules that are put before or after a layer, and models in which a layer is replaced."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from joulewise.errors import ModelError, check_kind, refuse

__all__ = ["Offset", "Product", "copied", "hadamard", "orthogonal", "replace_modules", "rotated"]


class Product(nn.Module):
    """Product with a square matrix: ``x @ matrix``.

    Args:
        matrix: ``[features, features]``, kept as a buffer.
    """

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the last axis."""
        return x @ self.matrix


class Offset(nn.Module):
    """Sum with a vector, kept as a buffer.

    Args:
        vector: ``[features]``.
    """

    vector: Tensor

    def __init__(self, vector: Tensor) -> None:
        super().__init__()
        self.register_buffer("vector", vector)

    def forward(self, x: Tensor) -> Tensor:
        """Add the vector to the last axis."""
        return x + self.vector


def orthogonal(size: int, seed: int, device: torch.device) -> Tensor:
    """A random orthogonal matrix, uniform (Haar), float64.

    Args:
        size: Number of rows.
        seed: Seed of the matrix.
        device: Device of the matrix.

    References:
        F. Mezzadri, "How to generate random matrices from the classical compact groups", Notices of
        the AMS 54(5), 2007 (the signs).
    """
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(size, size, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    rotation: Tensor = (q * r.diagonal().sign()).to(device)
    return rotation


def hadamard(size: int, seed: int, device: torch.device) -> Tensor:
    """A Hadamard matrix with rows of random signs, orthogonal, float64.

    All entries have the magnitude ``1 / sqrt(size)``: an outlier is spread evenly.

    Args:
        size: Number of rows, a power of two.
        seed: Seed of the signs.
        device: Device of the matrix.

    References:
        J. J. Sylvester, Philosophical Magazine 34, 461, 1867 (by doubling).
    """
    generator = torch.Generator().manual_seed(seed)
    signs = 2.0 * torch.randint(2, (size, 1), generator=generator) - 1
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    rotation: Tensor = (signs * matrix / size**0.5).to(device)
    return rotation


class Rotated(nn.Sequential):
    """A rotation of the inputs, and a linear layer.

    Args:
        rotation: The rotation.
        layer: The layer.
    """

    def __init__(self, rotation: Product, layer: nn.Linear) -> None:
        super().__init__(rotation, layer)

    @property
    def weight(self) -> Tensor:
        """Stored weight of the layer, whose type and device models ask for."""
        layer: Any = self[1]
        return cast(Tensor, layer.weight)


def rotated(layer: nn.Linear, matrix: Tensor) -> nn.Sequential:
    """A layer with its weight rotated in place, behind the rotation of its inputs.

    Args:
        layer: The layer; a weight that is tied to others stays tied.
        matrix: Orthogonal, float64.
    """
    with torch.no_grad():
        layer.weight.copy_(layer.weight.double() @ matrix)
    return Rotated(Product(matrix.to(layer.weight)), layer)


def copied(model: nn.Module) -> nn.Module:
    """A copy of a model that shares nothing with it.

    Raises:
        InputError: if it is not a module.
        ModelError: if it cannot be copied.
    """
    check_kind("model", model, nn.Module, "a torch.nn.Module")
    try:
        return copy.deepcopy(model)
    except Exception as error:  # the user's code
        raise ModelError(f"the model cannot be copied: {error}") from error


def replace_modules(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Replace modules of a model, wherever they are used.

    Args:
        model: The model, changed in place.
        replacements: A module for each one that is replaced.

    Raises:
        ModelError: if one of them is not a child of any module.
    """
    left = set(replacements)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children leaves out second names
            if child is not None and child in replacements:
                setattr(parent, name, replacements[child])
                left.discard(child)
    if left:
        refuse("the model", "one whose layer has no parent", "a layer within a model", ModelError)
