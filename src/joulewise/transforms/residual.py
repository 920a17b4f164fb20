"""Rotation of the residual stream of a decoder, folded into its weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from joulewise.errors import ModelError, check_count, refuse
from joulewise.nested import tensors_in
from joulewise.transforms.folding import (
    Offset,
    Product,
    copied,
    hadamard,
    orthogonal,
    replace_modules,
)
from joulewise.transforms.residual_stream import ResidualStream, matrix_of, watch
from joulewise.user_code import cause_of

__all__ = ["rotate_residual"]

# Largest change of the outputs over their norm, in float32; a layer left out changes them by more.
_TOLERANCE = 1e-3


@torch.no_grad()
def rotate_residual(model: nn.Module, example_inputs: Any, *, seed: int = 0) -> nn.Module:
    """A decoder whose residual stream is rotated; its outputs stay the same up to rounding.

    The gains and offsets of the norms are folded into the linear layers that read them, then an
    orthogonal matrix into all weights that read or write the stream: outliers among its dimensions
    are spread over all columns of the weights, and nothing is added to a pass. Only a head that is
    tied to the input table, stored once as ``E Q``, has its inputs multiplied by
    ``Q^T diag(gain) Q``, which takes ``features^2`` products a token and is not placed.

    The matrix is a randomised Hadamard matrix where the width is a power of two, else uniform. With
    LayerNorm it is uniform among those that keep the mean. `center_head` goes before, not after.

    Where the gain of a norm is small for an outlier of the stream, the readers now get that outlier
    in full, spread over all columns: `rotate_head` alone may lose less, so simulate both.

    Args:
        model: A pre-norm decoder, such as Llama, Mistral, Qwen2 or GPT-2; not written to.
        example_inputs: Token ids, or a mapping of keyword arguments. Layers are found by a pass
            over them, and those that it does not reach stay as they are.
        seed: Seed of the rotation.

    Raises:
        InputError: if it is not a module, or the seed is out of range.
        ModelError: if the model fails, or would compute something else.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> config = GPT2Config(vocab_size=50, n_positions=8, n_embd=8, n_layer=1, n_head=1)
        >>> model, ids = GPT2LMHeadModel(config).eval(), torch.arange(8)[None]
        >>> rotated = rotate_residual(model, ids)
        >>> torch.allclose(rotated(ids).logits, model(ids).logits, atol=1e-5)
        True

    References:
        S. Ashkboos et al., "QuaRot: Outlier-free 4-bit inference in rotated LLMs", NeurIPS 2024,
        arXiv 2404.00456, section 4, stage 1a. S. Ashkboos et al., "SliceGPT: Compress large
        language models by deleting rows and columns", ICLR 2024, arXiv 2401.15024 (invariance).
    """
    check_count("seed", seed, 0)
    model = copied(model)
    training = {module: module.training for module in model.modules()}
    offsets = [m.vector for m in model.modules() if isinstance(m, Offset)]
    dtypes = [(tensor, tensor.dtype) for tensor in (*model.parameters(), *offsets)]
    for tensor, dtype in dtypes:  # rounded once, at the end
        if dtype in (torch.bfloat16, torch.float16):
            tensor.data = tensor.data.float()
    model.eval()
    with ExitStack() as block:
        stream = watch(model, block)
        before = _logits(model, example_inputs)
    if not stream.readers:
        got = "one without a linear layer that reads a norm of a sum that starts at an Embedding"
        refuse("the model", got, "a pre-norm decoder, such as Llama or GPT-2", ModelError)
    replaced = _rotate(model, stream, seed)
    _check_same(_logits(model, example_inputs), before)
    for tensor, dtype in dtypes:
        tensor.data = tensor.data.to(dtype)
    for layer in stream.readers:  # biases and products that were added
        replaced.get(layer, layer).to(layer.weight.dtype)
    for module in model.modules():
        module.training = training.get(module, training[model])
    return model


def _rotate(model: nn.Module, stream: ResidualStream, seed: int) -> dict[nn.Module, nn.Sequential]:
    """Fold and rotate in place.

    With the stream ``x`` stored as ``x q``, a norm without its gain gives ``n q`` for ``n``, since
    it keeps lengths (and the mean, see `_matrix`). A reader ``(n * gain + offset) W^T + b`` is then
    ``(n q) (W * gain q)^T + W offset + b``; a writer adds ``W x + b`` as ``q^T W x + q^T b``.

    Returns:
        The modules that stand for tied heads, by head.
    """
    tables = [m.weight for m in stream.writers if isinstance(m, nn.Embedding)]
    size, device = tables[0].shape[1], tables[0].device
    norms = {norm: _affine(norm, tables[0][0]) for norm in stream.readers.values()}
    q = _matrix(size, seed, device, keep_mean=any(n.centres for n in norms.values()))
    replaced: dict[nn.Module, nn.Sequential] = {}
    for layer, norm in stream.readers.items():
        gain, offset, _ = norms[norm]
        if any(layer.weight is table for table in tables):
            # Its weight becomes E q below, as the table: (n q) (q^T diag(gain) q) is the input
            # (n * gain) q, whose product with (E q)^T is that of n * gain with E^T.
            products: list[nn.Module] = [Product(q.mT * gain @ q)]
            if offset.any():
                products.append(Offset(offset @ q))
            replaced[layer] = nn.Sequential(*products, layer).to(layer.weight)
            continue
        weight = matrix_of(layer).double()
        if offset.any():
            bias = weight @ offset + (0 if layer.bias is None else layer.bias)
            layer.bias = nn.Parameter(bias.to(layer.weight), layer.weight.requires_grad)
        matrix_of(layer).copy_(weight * gain @ q)
    for norm, (gain, *_) in norms.items():  # once all of its readers are folded
        _make_plain(norm, gain)
    for writer in stream.writers:
        if isinstance(writer, Offset):
            writer.vector.copy_(writer.vector.double() @ q)
        elif isinstance(writer, nn.Embedding):
            writer.weight.copy_(writer.weight.double() @ q)
        else:
            matrix_of(writer).copy_(q.mT @ matrix_of(writer).double())
            if writer.bias is not None:
                writer.bias.copy_(writer.bias.double() @ q)
    replace_modules(model, replaced)
    return replaced


class _Affine(NamedTuple):
    """Gain and offset of a norm, and whether it subtracts the mean, as LayerNorm does."""

    gain: Tensor
    offset: Tensor
    centres: bool


def _affine(norm: nn.Module, like: Tensor) -> _Affine:
    """Gain and offset of a norm, by its outputs: classes store them in several ways."""
    # Rows of mean 0 and one magnitude, far above eps: a norm gives +-signs * gain + offset.
    signs = torch.ones_like(like)
    signs[1::2] = -1
    rows = 1024 * torch.stack([signs, -signs, torch.ones_like(signs)])
    up, down, flat = norm(rows[None])[0].double()
    gain, offset = signs * (up - down) / 2, (up + down) / 2
    # Of a constant row LayerNorm leaves the offset alone, RMSNorm the gain too.
    return _Affine(gain, offset, bool((flat - offset).norm() < gain.norm() / 2))


def _make_plain(norm: nn.Module, gain: Tensor) -> None:
    """Set the gain of a norm to 1 and its offset to 0."""
    for name, parameter in norm.named_parameters():
        if name == "bias":
            parameter.zero_()
        else:  # 1 if it is the gain; 0 if it is the gain less 1, as in Gemma
            parameter.fill_(float(torch.allclose(parameter.double(), gain, rtol=1e-4)))


def _matrix(size: int, seed: int, device: torch.device, *, keep_mean: bool) -> Tensor:
    """A random orthogonal matrix, float64; one that keeps the mean commutes with LayerNorm."""
    if not keep_mean:
        return (orthogonal if size & (size - 1) else hadamard)(size, seed, device)
    # A Householder reflection exchanges the first axis and (1, ..., 1) / sqrt(size). Between two of
    # them the matrix fixes the first axis and rotates the others.
    axis = torch.full((size,), size**-0.5, dtype=torch.float64, device=device)
    axis[0] -= 1
    reflection = torch.eye(size).to(axis) - 2 * torch.outer(axis, axis) / axis.dot(axis)
    matrix = torch.eye(size).to(axis)
    matrix[1:, 1:] = orthogonal(size - 1, seed, device)
    return reflection @ matrix @ reflection


def _logits(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Floating outputs of a pass.

    Raises:
        ModelError: if the model fails.
    """
    try:
        outputs = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    except Exception as error:  # the user's code
        raise ModelError(f"the model fails on example_inputs with {cause_of(error)}") from error
    found = tensors_in(getattr(outputs, "logits", outputs))
    return [tensor.double() for tensor in found if tensor.is_floating_point()]


def _check_same(after: list[Tensor], before: list[Tensor]) -> None:
    for new, old in zip(after, before, strict=True):
        change = float((new - old).norm() / old.norm())
        if not change <= _TOLERANCE:
            got = f"one whose outputs change by {change:.2g} of their norm"
            allowed = "a decoder whose residual stream is read through norms by linear layers alone"
            refuse("the model", got, allowed, ModelError)
