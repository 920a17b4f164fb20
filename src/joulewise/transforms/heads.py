"""Heads of language models that lose less by bit faults.

A common offset of a column of the head adds the same number to all logits, which the softmax
ignores until one row loses it: the logit of that class then rises by as much. The offset is
subtracted from all rows, or spread over all columns by a rotation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from joulewise.errors import ModelError, check_count, refuse
from joulewise.transforms.folding import (
    Offset,
    Product,
    copied,
    orthogonal,
    replace_modules,
    rotated,
)

__all__ = ["center_head", "rotate_head"]


def center_head(model: nn.Module) -> nn.Module:
    """A model whose head has no mean row; logits change by the same number for all classes.

    The softmax, and with it loss, sampling and divergence, stay as they are. An input table that is
    tied to the head stays tied: the mean row is added to what is looked up.

    Args:
        model: A causal model with ``get_output_embeddings``, as those of transformers; not written
            to.

    Raises:
        InputError: if it is not a module.
        ModelError: if it has no linear head, or one that is not finite.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> config = GPT2Config(vocab_size=50, n_positions=8, n_embd=8, n_layer=1, n_head=1)
        >>> centered = center_head(GPT2LMHeadModel(config))
        >>> bool((centered.lm_head.weight.detach().mean(0).abs() < 1e-8).all())
        True
    """
    model = copied(model)
    head, table = _head_of(model)
    capped = getattr(getattr(model, "config", None), "final_logit_softcapping", None)
    if capped is not None:
        got = f"one with final_logit_softcapping of {capped}"
        refuse("the model", got, "rotate_head, which changes no logit", ModelError)
    if table is not None and type(table) is not nn.Embedding:
        got = f"one whose input table is a {type(table).__name__}"
        refuse("the model", got, "rotate_head, or a plain Embedding", ModelError)
    with torch.no_grad():
        mean = head.weight.double().mean(0).to(head.weight)
        head.weight -= mean
    if table is not None:
        replace_modules(model, {table: nn.Sequential(table, Offset(mean))})
    return model


def rotate_head(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """A model whose head stores its weight rotated; its outputs stay the same up to rounding.

    ``W h = (W Q) (Q^T h)`` with a random orthogonal ``Q``: columns of the stored ``W Q`` have no
    outliers. The rotation of the head's inputs, and the one back of what is looked up in a tied
    input table, take ``features^2`` products a token and are not placed.

    Args:
        model: See `center_head`; not written to.
        seed: Seed of the rotation.

    Raises:
        InputError: if it is not a module, or the seed is out of range.
        ModelError: if it has no linear head.

    References:
        S. Ashkboos et al., "QuaRot: Outlier-free 4-bit inference in rotated LLMs", NeurIPS 2024,
        arXiv 2404.00456 (rotations against outliers).
    """
    check_count("seed", seed, 0)
    model = copied(model)
    head, table = _head_of(model)
    matrix = orthogonal(head.in_features, seed, head.weight.device)
    replacements: dict[nn.Module, nn.Module] = {head: rotated(head, matrix)}
    if table is not None:
        back = Product(matrix.mT.contiguous().to(head.weight))
        replacements[table] = nn.Sequential(table, back)
    replace_modules(model, replacements)
    return model


def _head_of(model: nn.Module) -> tuple[nn.Linear, nn.Embedding | None]:
    """The head of a causal model, and its input table if that is tied to it."""
    found: Any = getattr(model, "get_output_embeddings", lambda: None)()
    if not isinstance(found, nn.Linear):
        got = f"a {type(model).__name__}, whose output embeddings are a {type(found).__name__}"
        refuse("the model", got, "a causal language model with a linear head", ModelError)
    if not found.weight.isfinite().all():
        refuse("the weight of the head", "NaN or infinite", "finite numbers", ModelError)
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    tied = [table for table in tables if table.weight is found.weight]
    if len(tied) > 1:
        refuse("the model", "one with several tied input tables", "one table", ModelError)
    return found, tied[0] if tied else None
