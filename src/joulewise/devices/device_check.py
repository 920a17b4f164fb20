"""Statistical self-check of a memory device: its moments against what its chips read.

Words are grouped by what is stored, since the error of a wrong formula depends on it. For each
group and operating point, two numbers of each chip have mean zero if the moments are right: the
sums over words of ``x - mean`` and of ``(x - mean)^2 - var``. Chips are independent, so the mean
over chips of either, divided by its standard error, is about standard normal, also if the words of
a chip are correlated. A group is tested only if it has enough deviations for that.

For a device with estimated moments only reads, energies and the ends of the knob are checked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from joulewise.devices.chip import Chip, MatrixInputs, Traffic
from joulewise.devices.device import Device
from joulewise.errors import DeviceError, check_in_range, check_kind, refuse

__all__ = ["DeviceCheck", "MomentCheck", "check_device"]

_LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_GROUPS = 8
# Least effective number of deviations, (sum d)^2 / sum d^2 over chips, for their mean to be about
# normal; a few large deviations count little.
_DEVIATIONS = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentCheck:
    """One moment of one group of words at one operating point.

    Args:
        moment: ``"mean"`` or ``"variance"``.
        point: The operating point.
        stored: Lowest and highest value stored in the group.
        predicted: The moment as the device states it, mean over the words of the group.
        found: The same, estimated over chips.
        standard_errors: Difference of both, in standard errors of ``found``.
    """

    moment: str
    point: float
    stored: tuple[float, float]
    predicted: float
    found: float
    standard_errors: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCheck:
    """Outcome of `check_device` for a device that passes.

    Args:
        device: Name of the class.
        chips: Chips read at each operating point.
        moments: Every comparison that was made.
        untested: Operating points at which too few words were read wrongly to compare anything.
        estimated_from: Chips that moments are estimated from if the device states none, so that
            there are no comparisons; else None.
    """

    device: str
    chips: int
    moments: tuple[MomentCheck, ...]
    untested: tuple[float, ...]
    estimated_from: int | None = None

    @property
    def largest(self) -> float:
        """Largest deviation, in standard errors."""
        return max((abs(check.standard_errors) for check in self.moments), default=0.0)

    def __repr__(self) -> str:
        if self.estimated_from is not None:
            return (
                f"DeviceCheck({self.device}: it states no moments to compare, they are estimated "
                f"from {self.estimated_from} chips; its reads on {self.chips} chips and its "
                f"energy are consistent at {len(self.untested)} operating points)"
            )
        points = len({check.point for check in self.moments})
        return (
            f"DeviceCheck({self.device}: {len(self.moments)} moments at {points} operating points "
            f"on {self.chips} chips, the largest deviation is {self.largest:.1f} standard errors)"
        )


def check_device(
    device: Device[Any],
    *,
    chips: int = 400,
    shape: tuple[int, ...] = (32, 32),
    z: float = 5.0,
    seed: int = 0,
) -> DeviceCheck:
    """Check a memory device: repeatable reads, plausible energy, moments that chips agree with.

    Where the device states no moments they are estimated, and cannot be compared: the result says
    so.

    Args:
        device: The device, built-in or user-defined.
        chips: Chips to read at each of six operating points over the range of the knob; 20 or more.
        shape: Shape of the weight that is stored, normal values of standard deviation 0.1.
        z: Standard errors beyond which a moment is refused. With about a hundred comparisons, 5
            refuses about one correct device in ten thousand.
        seed: Seed of the first chip, and of the weight.

    Raises:
        DeviceError: naming what is wrong; for a moment, by how many standard errors.

    Example:
        >>> from joulewise.devices import SRAM
        >>> check_device(SRAM(bits=8), chips=100).largest < 5
        True
    """
    check_in_range("chips", chips, 20, 10**6)
    check_kind("device", device, Device, "a Device, such as SRAM(bits=8)")
    generator = torch.Generator().manual_seed(seed)
    weight = 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)
    stored = device.store(weight, name="weight")
    ideal = device.ideal(stored).double()
    _check_tensor(f"the ideal read of {type(device).__name__}", ideal, weight.shape)
    found: list[MomentCheck] = []
    untested, errors = [], []
    for point in [device.knob.point(level) for level in _LEVELS]:
        where = f"{type(device).__name__} at {device.knob.name} {point:g}"
        _check_energy(where, device, weight, point, generator)
        reads = _reads(where, device, stored, point, [seed + k for k in range(chips)], ideal.shape)
        errors.append(float((reads - ideal).square().mean()))
        here = _moments(device, stored, point, ideal, reads) if device.states_moments else []
        found += here
        if not here:
            untested.append(point)
    _refuse_wrong(device, found, z)
    _check_ends(device, errors)
    return DeviceCheck(
        device=type(device).__name__,
        chips=chips,
        moments=tuple(found),
        untested=tuple(untested),
        estimated_from=None if device.states_moments else device.moment_chips,
    )


def _check_tensor(field: str, values: Tensor, shape: torch.Size) -> None:
    if values.shape != shape or not bool(values.isfinite().all()):
        got = f"of shape {tuple(values.shape)}, or not finite"
        refuse(field, got, f"finite, {tuple(shape)}", DeviceError)


def _check_energy(
    where: str, device: Device[Any], weight: Tensor, point: float, generator: torch.Generator
) -> None:
    columns, rows = len(weight), weight[0].numel()
    inputs = torch.rand(16, 1, rows, generator=generator)
    product = MatrixInputs(inputs=inputs, largest=1.0, uses=4.0, weight=weight)
    words = columns * rows
    traffic = Traffic(words=words, reads=4.0 * words, writes=0.0, matrix_inputs=(product,))
    joules = torch.as_tensor(device.energy(traffic, point)).detach()
    if joules.numel() != 1 or not math.isfinite(float(joules)) or float(joules) < 0:
        allowed = "one finite number of joules, 0 or more"
        refuse(f"the energy of {where}", joules.tolist(), allowed, DeviceError)


def _reads(
    where: str, device: Device[Any], stored: Any, point: float, seeds: list[int], shape: torch.Size
) -> Tensor:
    """Reads of each chip, float64 ``[chips, *shape]``; the first must read alike twice."""
    chips = [Chip(seed=seed, part="weight") for seed in [seeds[0], *seeds]]
    again, first, *others = (device.read(stored, point, chip).double() for chip in chips)
    if not torch.equal(first, again):
        allowed = "the same each time: draw from chip.generator or chip.fresh alone"
        got = "another one when it is repeated on the same chip"
        refuse(f"a read of {where}", got, allowed, DeviceError)
    _check_tensor(f"a read of {where}", first, shape)
    if not device.fresh:
        later = device.read(stored, point, chips[0].next_use()).double()
        if not torch.equal(first, later):
            got = "False, and reads differ from use to use, as those of read noise do"
            refuse(f"fresh of {type(device).__name__}", got, "True, a class attribute", DeviceError)
    return torch.stack([first, *others])


def _moments(
    device: Device[Any], stored: Any, point: float, ideal: Tensor, reads: Tensor
) -> list[MomentCheck]:
    """Comparisons at one operating point, of groups with enough deviations."""
    moments = device.moments(stored, point)
    mean, var = moments.mean.detach().double(), moments.var.detach().double()
    found = []
    # Groups are quantiles of the stored values, in which a wrong formula errs alike.
    for words in ideal.reshape(-1).argsort().tensor_split(_GROUPS):
        x = reads.reshape(len(reads), -1)[:, words]
        m, v = mean.reshape(-1)[words], var.reshape(-1)[words]
        held = ideal.reshape(-1)[words]
        deviations = (x - held).square().sum(1)
        if float(deviations.sum()) ** 2 <= _DEVIATIONS * float(deviations.square().sum()):
            continue
        size = float(held.square().mean()) ** 0.5
        found += [
            _compared("mean", point, held, x, m, size),
            _compared("variance", point, held, (x - m).square(), v, size**2),
        ]
    return found


def _compared(
    moment: str, point: float, held: Tensor, each: Tensor, stated: Tensor, size: float
) -> MomentCheck:
    """Compare numbers ``[chips, words]`` with their stated means ``[words]`` over chips."""
    # Over words first: chips are independent, the words of a chip need not be.
    sums = (each - stated).mean(1)
    off, error = float(sums.mean()), float(sums.std()) / len(sums) ** 0.5
    # Identical reads on all chips have no spread: their deviation is rounding.
    rounding = 1e-9 * size
    return MomentCheck(
        moment=moment,
        point=point,
        stored=(float(held.min()), float(held.max())),
        predicted=float(stated.mean()),
        found=float(each.mean()),
        standard_errors=0.0 if abs(off) <= rounding else off / max(error, rounding / 1e3),
    )


def _refuse_wrong(device: Device[Any], found: list[MomentCheck], z: float) -> None:
    """Refuse the largest deviation beyond ``z``; of a mean first, on which the variance rests."""
    wrong = [check for check in found if abs(check.standard_errors) > z]
    if wrong:
        worst = max(wrong, key=lambda c: (c.moment == "mean", abs(c.standard_errors)))
        low, high = worst.stored
        field = f"the {worst.moment} of {type(device).__name__} at {device.knob.name}"
        got = (
            f"{worst.predicted:.4g} by its moments and {worst.found:.4g} over chips, "
            f"{abs(worst.standard_errors):.1f} standard errors apart, for words that store "
            f"{low:.3g} to {high:.3g}"
        )
        refuse(f"{field} {worst.point:g}", got, "moments of what read gives", DeviceError)


def _check_ends(device: Device[Any], errors: list[float]) -> None:
    """Refuse a device without errors, or whose errors are larger where it is most reliable."""
    knob, name = device.knob, type(device).__name__
    if not any(errors):
        refuse(f"every read of {name}", "what was stored", "errors on some chips", DeviceError)
    if errors[-1] > errors[0]:
        least, most = (f"{knob.name} {end:g}" for end in (knob.least_reliable, knob.most_reliable))
        got = f"{errors[-1]:.3g}, above {errors[0]:.3g} at its least reliable, {least}"
        field = f"the mean squared error of {name} at its most reliable point, {most},"
        refuse(field, got, "one below: exchange the ends of the knob", DeviceError)
