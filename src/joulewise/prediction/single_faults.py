"""Large single faults: the true over the linear variance that one fault causes.

A rare fault can be large: a masked sign bit reads a weight as 0. Where few weights feed an output,
such a fault crosses a kink of the network, and the tangent at the mean is wrong by a factor however
rare the fault. So single faults are drawn in proportion to their linear effect, and tried in one
forward pass each. The mean ratio of true to linear effect scales the variance of the tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from joulewise.devices import Chip
from joulewise.prediction.linearisation import Linearisation, Piece

__all__ = ["FaultRatio", "single_fault_ratios"]

_CHIPS = 256
# Draws for a tensor at least, and the fraction of the variance below which it gets none.
_LEAST, _SMALL = 4, 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRatio:
    """True over linear variance of single faults, and the standard error of this ratio."""

    mean: float
    standard_error: float


def single_fault_ratios(
    network: Linearisation, piece: Piece, draws: int, seed: int
) -> dict[str, FaultRatio]:
    """The ratio of true to linear variance of single faults, for each weight that matters.

    With ``d`` the deviation of one word on a chip and ``S_i`` its squared gradient, faults are
    drawn with a probability proportional to ``S_i d^2`` from all words of 256 chips. The mean of
    ``|f(mean + d) - f(mean)|^2 / (S_i d^2)`` over such draws estimates the ratio of the sums over
    all faults without bias, even though ``S_i`` is itself an estimate (importance sampling).

    Args:
        network: Linearisation around the mean read.
        piece: The samples to try faults on.
        draws: Single faults to try, in all; at least 4 for each tensor with 0.2 % of the variance.
        seed: Seed of the chips and the draws.

    Returns:
        The ratios by tensor, without placed activations.
    """
    problem, means = network.problem, network.fixed
    squares: dict[str, Tensor] = {}
    output, *_ = network.probe(
        piece, lambda name, gradients: squares.update({name: gradients.summed()})
    )
    variance = {n: float((s * network.variances[n].detach()).sum()) for n, s in squares.items()}
    whole = sum(variance.values())
    generator = torch.Generator().manual_seed(seed)
    chips = [Chip(seed=seed + k) for k in range(_CHIPS)]
    found = {}
    for name, sensitivity in squares.items():
        fraction = variance[name] / whole if whole else 0.0
        if fraction < _SMALL:
            continue
        number, ratios = max(_LEAST, round(draws * fraction)), []
        for entry, deviation, linear in _drawn_faults(
            network, name, sensitivity, chips, number, generator
        ):
            moved = means[name].clone()
            moved[torch.unravel_index(torch.tensor(entry), moved.shape)] += deviation
            problem.memory.expect(problem.points, {**means, name: moved})
            with torch.no_grad():
                change = problem.memory.call(piece.inputs).double() - output.double()
            ratios.append(float(change.square().sum()) / linear)
        if ratios:
            all_ratios = torch.tensor(ratios, dtype=torch.float64)
            error = float(all_ratios.std()) / len(ratios) ** 0.5
            found[name] = FaultRatio(mean=float(all_ratios.mean()), standard_error=error)
    return found


def _drawn_faults(
    network: Linearisation,
    name: str,
    sensitivity: Tensor,
    chips: Sequence[Chip],
    number: int,
    generator: torch.Generator,
) -> list[tuple[int, float, float]]:
    """Entry, deviation and linear effect of each fault drawn; none if no chip has a fault."""
    sensitivity = sensitivity.reshape(-1).double().cpu()

    def effects(chip: Chip) -> tuple[Tensor, Tensor]:
        noise = network.noise(name, chip).reshape(-1).double().cpu()
        return noise, sensitivity * noise.square()

    totals = torch.stack([effects(chip)[1].sum() for chip in chips])
    if not bool(totals.any()):
        return []
    found = []
    for index in torch.multinomial(totals, number, replacement=True, generator=generator):
        noise, linear = effects(chips[int(index)])
        entry = _drawn(linear, generator)
        found.append((entry, float(noise[entry]), float(linear[entry])))
    return found


def _drawn(weights: Tensor, generator: torch.Generator) -> int:
    """An index drawn in proportion to the weights; `torch.multinomial` takes 2^24 of them only."""
    sums = weights.cumsum(0)
    at = torch.rand((), generator=generator, dtype=torch.float64, device="cpu") * sums[-1]
    return min(int(torch.searchsorted(sums, at, right=True)), len(sums) - 1)
