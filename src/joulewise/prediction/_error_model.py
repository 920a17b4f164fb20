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
from joulewise.prediction.tensor_groups import (
    TensorGroup,
    mean_directions,
    moments_at,
    point_rows,
)
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
        return _Builder(placement, problem.memory, points).build(problem, network)


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
        return _Builder(placement, memory, points).of_weights()


class _Builder:
    """Builds an error model for plans whose points have the shapes of ``points``."""

    def __init__(self, placement: Placement, memory: Memory, points: Mapping[str, Tensor]) -> None:
        self._placement, self._memory = placement, memory
        placed = placement.placed
        self._classes = {p.name: self._classes_of(p) for p in placed}
        self._by_channel = {
            p.name for p in placed if points[p.name].ndim > (1 if p.device.knob.bit_planes else 0)
        }
        self._rows = {n: point_rows(p, n in self._by_channel) for n, p in points.items()}
        self._groups = self._grouped()
        self._directions: dict[str, Tensor] = {}
        for first, *others in self._groups:
            directions = mean_directions(
                self._classes[first.name].moments,
                first.device.knob,
                self._rows[first.name].shape[1:],
                first.device.smooth,
                # An estimate at one point takes many reads.
                sampled=48 if first.device.states_moments else 8,
            )
            self._directions |= dict.fromkeys([p.name for p in (first, *others)], directions)

    def _classes_of(self, placed: Placed) -> WordClasses:
        device: Device[Any] = placed.device
        if placed.role == "weight":
            stored = self._memory.stored[placed.name]
            if device.states_moments:
                return device.word_classes(stored)
            # A class for each word: words of one class would have equal estimation errors, which
            # do not average out.
            return Device.word_classes(device, stored)
        if type(device).word_classes is Device.word_classes:
            refuse(
                f"the memory of {placed.name}",
                f"{type(device).__name__}, which knows no classes of words",
                "one with a word_classes that does not depend on what is stored, for activations",
            )
        # Any tensor will do: only the moments are used, which do not depend on the content.
        return device.word_classes(device.store(torch.zeros(1), limit=placed.limit))

    def _grouped(self) -> list[list[Placed]]:
        """Placed tensors whose classes have the same moments, at points of the same shape."""
        groups: list[list[Placed]] = []
        for placed in self._placement.placed:
            for group in groups:
                first = group[0].name
                same = self._classes[first].moments == self._classes[placed.name].moments
                if same and self._rows[first].shape[1:] == self._rows[placed.name].shape[1:]:
                    group.append(placed)
                    break
            else:
                groups.append([placed])
        return groups

    def build(self, problem: Problem, network: Linearisation) -> ErrorModel:
        """The output error, from one pass over the data."""
        samples, errors = 0, []
        squares: dict[str, Tensor] = {}
        response: dict[str, list[Tensor]] = {name: [] for name in self._rows}
        most = max(len(directions) for directions in self._directions.values())
        for piece in network.pieces(most):
            output, probe, weights, activations = network.probe(piece)
            off = ((output - piece.reference).double() * probe).reshape(piece.samples, -1)
            errors.append(off.sum(1).cpu())
            moved = {
                name: torch.zeros(piece.samples, len(self._rows[name]) * len(directions)).double()
                for name, directions in self._directions.items()
            }
            with torch.no_grad():
                sums = [self._sums(name, found) for name, found in weights.items()]
                sums += [self._activation_sums(use, g) for use in activations for g in use.caught]
            for name, square, step in sums:
                squares[name] = squares[name] + square if name in squares else square
                moved[name] += step
            for name, steps in moved.items():
                response[name].append(steps)
            samples += piece.samples
            problem.progress(samples, problem.samples)
        scaled = {name: part / (samples * problem.outputs) for name, part in squares.items()}
        joined = {name: torch.cat(parts) for name, parts in response.items()}
        return self._model(problem.outputs, torch.cat(errors), scaled, joined)

    def _sums(self, name: str, gradients: WeightGradients) -> tuple[str, Tensor, Tensor]:
        """``(scale dz/dw)^2`` by class of words, and steps of the output along each direction.

        Returns:
            The name; ``[classes]`` or ``[channels, classes]``, summed over samples and words; and
            ``[samples, directions]`` or ``[samples, channels * directions]``; float64.
        """
        classes, by_channel = self._classes[name], name in self._by_channel
        squares = classes.summed(gradients.summed(), by_channel=by_channel).cpu()
        spread = classes.spread(self._directions[name])
        # In the memory layout of the weight.
        along = [torch.empty_like(gradients.mean).copy_(direction) for direction in spread]
        if not along:
            return name, squares, torch.zeros(())
        response = gradients.response_by_channel if by_channel else gradients.response
        return name, squares, response(along).flatten(1).double().cpu()

    def _activation_sums(self, use: ActivationUse, g: Tensor) -> tuple[str, Tensor, Tensor]:
        """See `_sums`: those of a placed activation, from the gradient at the mean read."""
        placed, wide = use.placed, g.double()
        stored = placed.device.store(use.inputs, limit=placed.limit, name=placed.name)
        classes = placed.device.word_classes(stored)
        directions = classes.spread(self._directions[placed.name]).to(wide)
        steps = torch.einsum("w...,...->...w", directions, wide)
        moved = steps.reshape(len(g), -1, len(directions)).sum(1)
        return placed.name, classes.summed(wide.square()).cpu(), moved.cpu()

    def of_weights(self) -> ErrorModel:
        """The relative error of the weights; see `weight_error_model`."""
        generator = torch.Generator().manual_seed(0)
        error = torch.zeros(_PROBES, dtype=torch.float64)
        squares, response = {}, {}
        for placed in self._placement.placed:
            name, rows = placed.name, self._rows[placed.name]
            weights = placed.device.ideal(self._memory.stored[name]).double()
            each = torch.full_like(weights, 1 / max(float(weights.square().sum()), 1e-300))
            sums = self._classes[name].summed(each, by_channel=name in self._by_channel)
            squares[name] = sums = sums.reshape(len(rows), -1).cpu()
            # E (sum_c s_c a_c)^2 = sum_c a_c^2 for random signs s: probes give the squared shift.
            signs = torch.randint(2, (_PROBES, *sums.shape), generator=generator) * 2 - 1
            probes = signs * sums.sqrt()
            moments, smooth = self._classes[name].moments, placed.device.smooth
            reliable = as_point(placed.device.knob.most_reliable).expand(rows.shape)
            now, ideal = (moments_at(moments, point, smooth)[0] for point in (rows, reliable))
            # p: probes, r: rows (points of the tensor), c: classes of words, d: directions.
            error += torch.einsum("prc,rc->p", probes, now - ideal)
            moved = torch.einsum("prc,dc->prd", probes, self._directions[name])
            response[name] = moved.flatten(1)
        return self._model(1, error, squares, response)

    def _model(
        self,
        outputs: int,
        error: Tensor,
        squares: Mapping[str, Tensor],
        response: Mapping[str, Tensor],
    ) -> ErrorModel:
        groups = tuple(self._group(group, squares, response) for group in self._groups)
        return ErrorModel(placement=self._placement, outputs=outputs, error=error, groups=groups)

    def _group(
        self,
        placed: Sequence[Placed],
        squares: Mapping[str, Tensor],
        response: Mapping[str, Tensor],
    ) -> TensorGroup:
        names, first = tuple(p.name for p in placed), placed[0]
        rows = [self._rows[name] for name in names]
        moments, directions = self._classes[first.name].moments, self._directions[first.name]
        mean, _ = moments_at(moments, torch.cat(rows), first.device.smooth)
        none = torch.zeros(mean.shape[1], dtype=torch.float64)
        summed = [
            squares.get(name, none).expand(len(row), -1)
            for name, row in zip(names, rows, strict=True)
        ]
        group = TensorGroup(
            names=names,
            rows=tuple(len(row) for row in rows),
            row=rows[0].shape[1:],
            by_channel=not self._by_channel.isdisjoint(names),
            moments=moments,
            smooth=first.device.smooth,
            squares=torch.cat(summed),
            directions=directions,
            response=torch.cat([response[name] for name in names], 1),
            origin=mean @ directions.mT,
        )
        scalar = rows[0].ndim == 1
        return group.with_curves(first.device.knob) if group.smooth and scalar else group
