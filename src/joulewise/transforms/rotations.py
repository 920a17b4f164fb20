"""Linear layers whose inputs and weights are rotated."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from joulewise.errors import ModelError, check_count, refuse
from joulewise.transforms.folding import copied, orthogonal, replace_modules, rotated

__all__ = ["rotate_linear"]


def rotate_linear(model: nn.Module, include: Sequence[str], *, seed: int = 0) -> nn.Module:
    """A model in which some linear layers store rotated weights; outputs stay the same.

    ``W x = (W Q) (Q^T x)`` with a random orthogonal ``Q`` for each width: the energy of an outlier
    among the inputs is spread over all columns, so that a fault in one of them costs less. The
    rotation of the inputs takes ``in_features^2`` products a vector and is not placed.

    Args:
        model: Any module; not written to.
        include: Patterns of names of layers, such as ``"*.down_proj"``.
        seed: Seed of the rotations.

    Raises:
        InputError: if an argument is out of range, or a pattern matches no linear layer.
        ModelError: if a layer's weight has other owners.

    Example:
        >>> model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> import torch
        >>> turned, x = rotate_linear(model, ["0"]), torch.randn(3, 6)
        >>> torch.allclose(model(x), turned(x), atol=1e-6)
        True
    """
    check_count("seed", seed, 0)
    if isinstance(include, str) or not all(isinstance(pattern, str) for pattern in include):
        refuse("include", repr(include), 'a list of patterns, such as ["*.down_proj"]')
    model = copied(model)
    linear = {n: m for n, m in model.named_modules() if type(m) is nn.Linear}
    chosen: dict[nn.Linear, None] = {}
    for pattern in include:
        found = [module for name, module in linear.items() if fnmatchcase(name, pattern)]
        if not found:
            some = ", ".join(list(linear)[:4]) or "none"
            refuse("the pattern", f"{pattern!r}, which matches no linear layer", f"one of {some}")
        chosen |= dict.fromkeys(found)
    owners = [id(p) for m in model.modules() for p in m._parameters.values() if p is not None]
    for module in chosen:
        if owners.count(id(module.weight)) > 1:
            refuse("a layer", "one with a shared weight", "rotate_head, for heads", ModelError)
    matrices: dict[int, Tensor] = {}
    replacements: dict[nn.Module, nn.Module] = {}
    for module in chosen:
        size = module.in_features
        if size not in matrices:
            matrices[size] = orthogonal(size, seed, module.weight.device)
        replacements[module] = rotated(module, matrices[size].to(module.weight.device))
    replace_modules(model, replacements)
    return model
