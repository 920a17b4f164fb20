"""Error model: the output error as a function of the plan, from one linearisation.

To first order in the noise, with ``P`` a plan, ``m`` and ``v`` the mean and variance of every word,
``f`` the outputs, ``z`` those of the model as given, and ``J`` and ``S_i`` gradients and squared
gradients of ``f`` at the mean ``m(P0)`` that the plan ``P0`` of the linearisation reads,

    MSE(P) = |f(m(P0)) - z + J (m(P) - m(P0))|^2 + sum_i S_i v_i(P).

Words of one class have the same moments, so ``S`` is summed once over the words of each class. A
plan then costs a product of short vectors: thousands of plans in the time of one forward pass,
differentiable in every operating point. Where each output channel has a point, ``S`` is summed over
the words of each class in each channel, and each channel's mean shifts separately.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from joulewise.data import Split
from joulewise.devices import Device, Point, WordClasses
from joulewise.devices.operating_point import as_point
from joulewise.errors import check_count, check_in_range, refuse
from joulewise.placement import At, Memory, Placed, Placement, guarded, private_memory
from joulewise.prediction.linearisation import ActivationUse, Linearisation, WeightGradients
from joulewise.prediction.problem import Problem, loaded_problem
from joulewise.prediction.tensor_groups import TensorGroup, mean_directions, moments_at
from joulewise.progress import Progress, reporting

__all__ = ["ErrorModel", "error_model", "weight_error_model"]


# Random +-1 probes of the weights' relative error.
_PROBES = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ErrorModel:
    """The output error as a function of the plan; see `error_model`.

    A probed output is the inner product of a sample's outputs with a random +-1 vector. Where
    ``points`` is an argument it holds an operating point for each placed tensor, on its device's
    knob, of a shape that fits; points may require gradients.

    Args:
        placement: The model and its memories.
        outputs: Number of outputs of each sample.
        error: Error of the probed outputs at the mean that the plan of the linearisation reads,
            ``[samples]``.
        groups: The placed tensors, grouped by equal moments.
    """

    placement: Placement
    outputs: int
    error: Tensor
    groups: tuple[TensorGroup, ...]

    def mse(self, at: At) -> Tensor:
        """The output error, a float64 scalar, differentiable in the values of ``at``."""
        return self.mse_at(self.placement.points(at))

    def mse_at(self, points: Mapping[str, Point]) -> Tensor:
        """The output error at some points."""
        shift, variance = self.shift_and_variance(points)
        return shift + torch.stack(list(variance.values())).sum()

    def shift_and_variance(self, points: Mapping[str, Point]) -> tuple[Tensor, dict[str, Tensor]]:
        """``mean_shift`` and ``variance`` as `Forecast` has them, float64."""
        # E (s . e)^2 = |e|^2 for a random +-1 vector s.
        off, variance = self.output_errors(points)
        return off.square().mean() / self.outputs, variance

    def output_errors(self, points: Mapping[str, Point]) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of the probed outputs at the mean read, ``[samples]``, and variance by tensor."""
        off = self.error
        variance: dict[str, Tensor] = {}
        for group in self.groups:
            moved, var = group.at(points)
            off = off + moved
            variance.update(zip(group.names, var, strict=True))
        return off, variance

    def single_changes(
        self, points: Mapping[str, Point], name: str, tried: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Changes when one tensor leaves the plan; see `TensorGroup.single_changes`."""
        group = next(group for group in self.groups if name in group.names)
        return group.single_changes(points, name, tried)


@guarded
def error_model(
    placement: Placement,
    data: Split | Iterable[Any],
    *,
    at: At,
    seed: int = 0,
    batch_size: int | None = None,
    memory_bytes: int = 1 << 30,
    progress: Progress = False,
) -> ErrorModel:
    """Linearise the output error of a placement around one plan, as a function of the plan.

    Takes one forward and one backward pass, with a random +-1 probe of each sample's outputs; some
    500 samples are enough. At the plan of the linearisation it equals first-order `predict`, apart
    from the probes; elsewhere gradients are held fixed, and moments are exact (from tables to a
    relative 1e-6 where points are scalar).

    Errors beyond first order are missed, above all those of a ReLU that only noise activates. Plans
    optimised against this model exploit that, the more so the more points they have, so `allocate`
    verifies plans on simulated chips.

    Where moments are estimated, the mean shift includes the squared error of the estimated means,
    the variance over ``moment_chips`` (1/64 of it by default), by which errors are too large.

    Args:
        placement: The model and its memories; the model is left as it was.
        data: As for `predict`; targets are not used.
        at: The plan of the linearisation; see `predict`. Its shapes fix those of the plans that
            can be evaluated: scalars for scalars, one point per bit plane for the same, one point
            per output channel for the same or a common point.
        seed: Seed of the probes.
        batch_size: As for `predict`.
        memory_bytes: Approximate limit on the memory of one pass without the model, in bytes.
        progress: As for `predict`.

    Returns:
        The model.

    Raises:
        InputError: if the plan does not fit the placement, a memory has no adjustable knob, or
            activations are on a memory without classes of words.

    Example:
        >>> from joulewise.data import load_digits
        >>> from joulewise.devices import SRAM
        >>> from joulewise.models import build
        >>> from joulewise.placement import place
        >>> digits = load_digits()
        >>> model = build("mlp", digits.input_shape, digits.classes, seed=0)
        >>> placement = place(model, weights=SRAM(bits=8))
        >>> errors = error_model(placement, digits.test, at={"eta": 0.5})
        >>> near, far = (float(errors.mse({"eta": eta})) for eta in (0.5, 0.3))
        >>> far > 10 * near
        True
    """
    seed = check_count("seed", seed, 0)
    check_in_range("memory_bytes", memory_bytes, 1, 1 << 60)
    with (
        reporting(progress) as report,
        loaded_problem(
            placement,
            data,
            at,
            targets=False,
            batch_size=batch_size,
            progress=partial(report, "predicting"),
        ) as problem,
    ):
        for placed in placement.placed:
            if not placed.device.knob.adjustable:
                got = f"{placed.device.knob.name}, which cannot be chosen"
                allowed = "a memory whose operating point is a choice, or predict at each point"
                refuse(f"the knob of {placed.name}", got, allowed)
        points = {name: as_point(point).detach() for name, point in problem.points.items()}
        problem = replace(problem, points=points)
        network = Linearisation(problem, seed=seed, memory_bytes=memory_bytes)
        groups = _grouped(placement, problem.memory, points)
        error = _probed_error(problem, network, groups)
        numbers = problem.samples * problem.outputs
        made = tuple(_tensor_group(group, numbers) for group in groups)
        return ErrorModel(placement=placement, outputs=problem.outputs, error=error, groups=made)


def weight_error_model(placement: Placement, *, at: At) -> ErrorModel:
    """The relative error of the weights as a function of the plan, for outputs of no fixed shape.

    ``sum |w_hat - w|^2 / |w|^2`` over the placed weights replaces the output error, which is
    undefined for outputs such as lists of detections. It ignores how sensitive the outputs are to
    each layer: plans chosen by it are verified by simulation, and cost more energy than those of
    `error_model`.

    Args:
        placement: The model and its memories, which hold weights alone.
        at: See `error_model`; decides the shapes of points.

    Raises:
        InputError: if activations are placed.
    """
    for placed in placement.placed:
        if placed.role == "activation":
            got = f"placed, {placed.name}, for a model whose outputs have no fixed shape"
            refuse("an activation", got, "placed weights alone, for such a model")
    points = {n: as_point(point).detach() for n, point in placement.points(at).items()}
    with private_memory(placement, frozen=True) as memory:
        groups = _grouped(placement, memory, points)
        error = _weight_error(memory, [part for group in groups for part in group])
    made = tuple(_tensor_group(group, 1) for group in groups)
    return ErrorModel(placement=placement, outputs=1, error=error, groups=made)


class _Part:
    """A placed tensor at points of the shape of ``point``, and the sums over its words so far.

    ``squares`` is ``(scale dz/dw)^2`` summed over samples and the words of each class, float64
    ``[classes]`` or ``[channels, classes]``. ``directions`` and ``response``, here in pieces of the
    data, are those of `TensorGroup`.
    """

    directions: Tensor

    def __init__(self, placed: Placed, memory: Memory, point: Tensor) -> None:
        self.placed = placed
        self.classes = _classes_of(placed, memory)
        self.by_channel = point.ndim > (1 if placed.device.knob.bit_planes else 0)
        # ``[rows, *point]``; a scalar for each channel comes as ``[channels, 1]``.
        self.rows = point if self.by_channel else point[None]
        if self.by_channel and point.ndim == 2 and point.shape[1] == 1:
            self.rows = point[:, 0]
        self.squares = torch.zeros(self.classes.count, dtype=torch.float64)
        self.response: list[Tensor] = []

    def add_weight(self, gradients: WeightGradients) -> None:
        """Add the gradients of the last piece with respect to a weight."""
        summed = self.classes.summed(gradients.summed(), by_channel=self.by_channel)
        self.squares = self.squares + summed.cpu()
        spread = self.classes.spread(self.directions)
        # In the memory layout of the weight.
        along = [torch.empty_like(gradients.mean).copy_(direction) for direction in spread]
        if along:
            response = gradients.response_by_channel if self.by_channel else gradients.response
            self.response[-1] += response(along).flatten(1).double().cpu()

    def add_activation(self, use: ActivationUse, g: Tensor) -> None:
        """Add the gradients of the last piece at the mean read of an activation."""
        stored = self.placed.device.store(
            use.inputs, limit=self.placed.limit, name=self.placed.name
        )
        classes, wide = self.placed.device.word_classes(stored), g.double()
        self.squares = self.squares + classes.summed(wide.square()).cpu()
        directions = classes.spread(self.directions).to(wide)
        steps = torch.einsum("w...,...->...w", directions, wide)
        self.response[-1] += steps.reshape(len(g), -1, len(directions)).sum(1).cpu()


def _classes_of(placed: Placed, memory: Memory) -> WordClasses:
    device: Device[Any] = placed.device
    if placed.role == "weight":
        stored = memory.stored[placed.name]
        if device.states_moments:
            return device.word_classes(stored)
        # A class for each word: words of one class would have equal estimation errors, which do
        # not average out.
        return Device.word_classes(device, stored)
    if type(device).word_classes is Device.word_classes:
        refuse(
            f"the memory of {placed.name}",
            f"{type(device).__name__}, which knows no classes of words",
            "one with a word_classes that does not depend on what is stored, for activations",
        )
    # Any tensor will do: only the moments are used, which do not depend on the content.
    return device.word_classes(device.store(torch.zeros(1), limit=placed.limit))


def _grouped(
    placement: Placement, memory: Memory, points: Mapping[str, Tensor]
) -> list[list[_Part]]:
    """Placed tensors whose classes have the same moments, at points of the same shape."""
    groups: list[list[_Part]] = []
    for placed in placement.placed:
        part = _Part(placed, memory, points[placed.name])
        for group in groups:
            same = group[0].classes.moments == part.classes.moments
            if same and group[0].rows.shape[1:] == part.rows.shape[1:]:
                group.append(part)
                break
        else:
            groups.append([part])
    for group in groups:
        device = group[0].placed.device
        # An estimate at one point takes many reads.
        sampled = 48 if device.states_moments else 8
        moments, shape = group[0].classes.moments, group[0].rows.shape[1:]
        directions = mean_directions(moments, device.knob, shape, device.smooth, sampled=sampled)
        for part in group:
            part.directions = directions
    return groups


def _probed_error(
    problem: Problem, network: Linearisation, groups: Sequence[Sequence[_Part]]
) -> Tensor:
    """The error of the probed outputs, from one pass over the data, which makes the sums."""
    parts = {part.placed.name: part for group in groups for part in group}
    errors, done = [], 0
    for piece in network.pieces(max(len(part.directions) for part in parts.values())):
        for part in parts.values():
            numbers = len(part.rows) * len(part.directions)
            part.response.append(torch.zeros(piece.samples, numbers, dtype=torch.float64))
        output, probe, activations = network.probe(
            piece, lambda name, gradients: parts[name].add_weight(gradients)
        )
        off = ((output - piece.reference).double() * probe).reshape(piece.samples, -1)
        errors.append(off.sum(1).cpu())
        with torch.no_grad():
            for use in activations:
                for g in use.caught:
                    parts[use.placed.name].add_activation(use, g)
        done += piece.samples
        problem.progress(done, problem.samples)
    return torch.cat(errors)


def _weight_error(memory: Memory, parts: Sequence[_Part]) -> Tensor:
    """The relative error of the weights at the plan, probed; see `weight_error_model`."""
    generator = torch.Generator().manual_seed(0)
    error = torch.zeros(_PROBES, dtype=torch.float64)
    for part in parts:
        placed, rows, moments = part.placed, part.rows, part.classes.moments
        weights = placed.device.ideal(memory.stored[placed.name]).double()
        each = torch.full_like(weights, 1 / max(float(weights.square().sum()), 1e-300))
        sums = part.classes.summed(each, by_channel=part.by_channel).reshape(len(rows), -1).cpu()
        # E (sum_c s_c a_c)^2 = sum_c a_c^2 for random signs s: probes give the squared shift.
        signs = torch.randint(2, (_PROBES, *sums.shape), generator=generator) * 2 - 1
        probes = signs * sums.sqrt()
        reliable = as_point(placed.device.knob.most_reliable).expand(rows.shape)
        now, ideal = (
            moments_at(moments, point, placed.device.smooth)[0] for point in (rows, reliable)
        )
        # p: probes, r: rows (points of the tensor), c: classes of words, d: directions.
        error += torch.einsum("prc,rc->p", probes, now - ideal)
        moved = torch.einsum("prc,dc->prd", probes, part.directions)
        part.squares, part.response = sums, [moved.flatten(1)]
    return error


def _tensor_group(parts: Sequence[_Part], numbers: int) -> TensorGroup:
    """Parts with the same moments as one group, whose squares are a mean over ``numbers``."""
    first, rows = parts[0], [part.rows for part in parts]
    device, moments = first.placed.device, first.classes.moments
    mean, _ = moments_at(moments, torch.cat(rows), device.smooth)
    squares = [part.squares.expand(len(part.rows), -1) / numbers for part in parts]
    group = TensorGroup(
        names=tuple(part.placed.name for part in parts),
        rows=tuple(len(row) for row in rows),
        row=rows[0].shape[1:],
        by_channel=any(part.by_channel for part in parts),
        moments=moments,
        smooth=device.smooth,
        squares=torch.cat(squares),
        directions=first.directions,
        response=torch.cat([torch.cat(part.response) for part in parts], 1),
        origin=mean @ first.directions.mT,
    )
    return group.with_curves(device.knob) if group.smooth and rows[0].ndim == 1 else group
