"""A memory with Gaussian reads, and one call to predict with it; for tests of moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from joulewise.contrib import FullCovariance
from joulewise.devices import Chip, Device, Knob, Point, ReadMoments, SharedFactor, Traffic
from joulewise.placement import At, Placement
from joulewise.prediction import loaded_problem


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianMemory(Device[Tensor]):
    """Independent Gaussian noise of standard deviation ``std``, on 90 % of the stored value.

    The bias shows up code that takes the stored value for the mean read.
    """

    keep: float = 0.9

    knob = Knob(name="std", least_reliable=10.0, most_reliable=0.0)

    @property
    def reliable_bit_j(self) -> float:
        return 1e-12

    def store(self, tensor: Tensor, *, limit: float | None = None, name: str = "") -> Tensor:
        return tensor.detach().clone()

    def ideal(self, stored: Tensor) -> Tensor:
        return stored.clone()

    def read(self, stored: Tensor, point: Point, chip: Chip) -> Tensor:
        noise = torch.from_numpy(chip.generator("noise").normal(size=tuple(stored.shape)))
        return self.keep * stored + float(point) * noise.to(stored.dtype)

    def moments(self, stored: Tensor, point: Point) -> ReadMoments:
        var = torch.as_tensor(point, dtype=torch.float64) ** 2
        return ReadMoments(mean=self.keep * stored, var=var.to(stored.dtype).expand(stored.shape))

    def round_trip(
        self,
        inputs: Tensor,
        point: Point,
        chip: Chip | None,
        limit: float | None,
        *,
        words: int | None = None,
    ) -> Tensor:
        if chip is None:
            return inputs
        return self.keep * inputs + self.read(torch.zeros_like(inputs[0]), point, chip)

    def energy(self, traffic: Traffic, point: Point) -> Tensor:
        return torch.as_tensor(traffic.reads, dtype=torch.float64)

    def describe(self) -> dict[str, Any]:
        return {"device": "gaussian"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TiedMemory(GaussianMemory):
    """Words with a common random factor, in moments alone; reads of chips lack it."""

    factor: float = 0.02
    tied: float = 0.003

    def moments(self, stored: Tensor, point: Point) -> ReadMoments:
        mean = self.keep * stored
        common = SharedFactor(
            var=torch.tensor(self.factor, dtype=stored.dtype), coupling=self.tied * stored.sin()
        )
        own = torch.as_tensor(point, dtype=stored.dtype) ** 2
        var = own + self.factor * mean.square() + 2 * mean * common.coupling
        return ReadMoments(mean=mean, var=var, common=common)


def covariance_of(memory: GaussianMemory, weight: Tensor, std: float) -> Tensor:
    """Covariance of all words of a tensor, ``[words, words]``, as `SharedFactor` defines it."""
    moments = memory.moments(weight, std)
    own = torch.eye(weight.numel(), dtype=weight.dtype) * std**2
    if moments.common is None:
        return own
    mean, tied = moments.mean.flatten(), moments.common.coupling.flatten()
    together = torch.outer(mean, tied)
    return own + moments.common.var * torch.outer(mean, mean) + together + together.T


def output_moments(
    placement: Placement, inputs: Any, at: At, **options: Any
) -> tuple[Tensor, Tensor]:
    """Mean ``[batch, size]`` and covariance ``[batch, size, size]`` of the output, in float64."""
    method = FullCovariance(dtype=torch.float64, **options)
    with loaded_problem(placement, [inputs], at) as problem:
        pieces = [(output.mean, output.cov) for output, _, _ in method.pieces(problem)]
    means, covs = zip(*pieces, strict=True)
    return torch.cat(means), torch.cat(covs)
