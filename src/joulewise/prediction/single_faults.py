"""Secants: how far a single fault really moves the outputs, over how far the tangent says.

A rare fault can be large: a masked sign bit reads a weight as 0. Where few weights feed an output,
such a fault crosses a kink of the network, and the tangent at the mean says too much or too little
however rare it is. So some single faults are tried, one forward pass each, drawn in proportion to
what the tangent makes of them. The mean ratio of the two scales the variance of the tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from joulewise.devices import Chip
from joulewise.prediction.linearisation import Linearisation, Piece

__all__ = ["Ratio", "secant_ratios"]

_CHIPS = 256
_LEAST, _SMALL = 4, 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """True over linear variance of single faults, and the standard error of that figure."""

    mean: float
    standard_error: float


def secant_ratios(network: Linearisation, piece: Piece, draws: int, seed: int) -> dict[str, Ratio]:
    """For each weight that matters, the ratio of true to linear variance of single faults.

    With ``d`` the deviation of one word on a chip and ``S_i`` its squared gradient, faults are
    drawn with a probability proportional to ``S_i d^2`` from all words of 256 chips. The mean of
    ``|f(mean + d) - f(mean)|^2 / (S_i d^2)`` over such draws is the ratio of the sums: a fault
    whose ``S_i`` is estimated too high is tried more often, and counts less.

    Args:
        network: Around the mean read.
        piece: The samples to try faults on.
        draws: Single faults to try, in all; at least 4 for each tensor of 0.2 % or more.
        seed: Of the chips and the draws.

    Returns:
        The ratios by tensor; placed activations, and weights that are used several times or
        differentiated one by one, have none.
    """
    output, squares = network.sensitivities(piece)
    variance = {n: float((s * network.variance(n)).sum()) for n, s in squares.items()}
    whole = sum(variance.values())
    generator = torch.Generator().manual_seed(seed)
    chips = [Chip(seed=seed + k) for k in range(_CHIPS)]
    found = {}
    for name, sensitivity in squares.items():
        share = variance[name] / whole if whole else 0.0
        if share < _SMALL:
            continue
        number = max(_LEAST, round(draws * share))
        ratios = _ratios(network, piece, output, name, sensitivity, chips, number, generator)
        if ratios is not None:
            error = float(ratios.std()) / len(ratios) ** 0.5
            found[name] = Ratio(mean=float(ratios.mean()), standard_error=error)
    return found


def _ratios(
    network: Linearisation,
    piece: Piece,
    output: Tensor,
    name: str,
    sensitivity: Tensor,
    chips: list[Chip],
    number: int,
    generator: torch.Generator,
) -> Tensor | None:
    sensitivity = sensitivity.reshape(-1).double().cpu()

    def linear(chip: Chip) -> tuple[Tensor, Tensor]:
        """The deviation of each word, and what the tangent makes of it."""
        noise = network.noise(name, chip).reshape(-1).double().cpu()
        return noise, sensitivity * noise.square()

    totals = torch.stack([linear(chip)[1].sum() for chip in chips])
    if not bool(totals.any()):
        return None
    ratios = []
    for index in torch.multinomial(totals, number, replacement=True, generator=generator):
        noise, weights = linear(chips[int(index)])
        entry = _drawn(weights, generator)
        moved = network.moved(piece, name, entry, float(noise[entry]))
        true = (moved.double() - output.double()).square().sum()
        ratios.append(float(true) / float(weights[entry]))
    return torch.tensor(ratios, dtype=torch.float64)


def _drawn(weights: Tensor, generator: torch.Generator) -> int:
    """An index drawn in proportion to the weights; `torch.multinomial` stops at 2^24 of them."""
    sums = weights.cumsum(0)
    at = torch.rand((), generator=generator, dtype=torch.float64, device="cpu") * sums[-1]
    return min(int(torch.searchsorted(sums, at, right=True)), len(sums) - 1)
