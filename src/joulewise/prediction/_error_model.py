"""Error model: the output error as a function of the plan, from one pass around one plan.

To first order in the noise, with ``P`` a plan, ``m`` and ``v`` the mean and variance of every word
there, ``S_i`` squared gradients and ``J`` gradients at the mean that plan ``P0`` reads,

    MSE(P) = |f(m(P0)) - z + J (m(P) - m(P0))|^2 + sum_i S_i v_i(P).

Words of one class have the same moments, so ``S`` is summed over the words of each class and what
remains is a product of short vectors: thousands of plans in the time of one forward pass,
differentiable in every operating point. Where each output channel has a point, ``S`` is summed over
the words of each class in each channel, and every channel's mean moves on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from joulewise.data import Split
from joulewise.devices import Device, KnobRange, Point, WordClasses
from joulewise.devices.operating_point import as_point
from joulewise.errors import check_count, check_in_range, check_kind, refuse
from joulewise.placement import Placed, Placement, guarded
from joulewise.prediction.linearisation import Linearisation
from joulewise.prediction.problem import Problem, posed
from joulewise.prediction.tensor_groups import (
    TensorGroup,
    mean_directions,
    moments_at,
    point_rows,
)

__all__ = ["ErrorModel", "error_model"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ErrorModel:
    """The output error as a function of the plan; see `error_model`.

    Args:
        plan: The plan ``P0`` of the linearisation.
        samples: Samples that the figures are a mean over.
        outputs: Outputs of each sample.
        error: Error of the probed outputs at the mean that ``P0`` reads, ``[samples]``.
        groups: The placed tensors.
    """

    plan: Mapping[str, Point]
    samples: int
    outputs: int
    error: Tensor
    groups: tuple[TensorGroup, ...]

    def parts(self, plan: Mapping[str, Point]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean shift and variance by tensor, as `Forecast` has them.

        Args:
            plan: An operating point for each placed tensor; points may require gradients.

        Returns:
            ``mean_shift`` and ``variance``, float64.
        """
        off, variance = self.outputs_off(plan)
        return off.square().mean() / self.outputs, variance

    def outputs_off(self, plan: Mapping[str, Point]) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of the probed outputs at the mean read, and the variance by tensor.

        Args:
            plan: See `parts`.

        Returns:
            float64 ``[samples]``, and ``variance`` of `parts`.
        """
        off = self.error
        variance: dict[str, Tensor] = {}
        for group in self.groups:
            moved, var = group.at(plan)
            off = off + moved
            variance.update(zip(group.names, var, strict=True))
        return off, variance

    def single_changes(
        self, plan: Mapping[str, Point], name: str, points: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Changes when one tensor, or one of its output channels, leaves the plan.

        Args:
            plan: An operating point for each placed tensor.
            name: The tensor.
            points: The points to try, ``[tried, 1, *point]``; where each channel has a point
                ``[tried, channels, *point]``, one channel moving at a time.

        Returns:
            Changes of the probed outputs, ``[tried, channels, samples]``, and of the variance,
            ``[tried, channels]``; float64.
        """
        group = next(group for group in self.groups if name in group.names)
        return group.single_changes(plan, name, points)

    def mse(self, plan: Mapping[str, Point]) -> Tensor:
        """The whole error at a plan, a float64 scalar; see `parts`."""
        shift, variance = self.parts(plan)
        return shift + torch.stack(list(variance.values())).sum()


@guarded
def error_model(
    placement: Placement,
    data: Split | Iterable[Any],
    plan: Mapping[str, Point],
    *,
    seed: int = 0,
    batch_size: int | None = None,
    memory_bytes: int = 1 << 30,
    progress: Callable[[float, float], None] | None = None,
) -> ErrorModel:
    """Linearise the output error of a placement around one plan, as a function of the plan.

    One forward and one backward pass, from a random +-1 probe of each sample's outputs: some 500
    samples are enough. At ``plan`` it equals `predict` by first order, apart from the random
    probes; elsewhere the gradients are those at ``plan``, and the moments are exact (from tables to
    a relative 1e-6 where points are scalar).

    Errors that first order misses, above all those of a rectifier that only noise switches on, are
    missed here, and plans that are optimised against this model exploit them, the more so the more
    points they have: `allocate` verifies plans on simulated chips.

    Args:
        placement: The model and its memories; the model is left as it was.
        data: As for `predict`; targets are not used.
        plan: The plan of the linearisation. Its shapes decide those of the plans that can be
            evaluated: numbers for numbers, points for each bit plane for the same, and points for
            each output channel for the same or one point for all.
        seed: Seed of the probes.
        batch_size: As for `predict`.
        memory_bytes: Memory that one pass may take beside the model, roughly.
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
        >>> errors = error_model(placement, digits.test, placement.plan(eta=0.5))
        >>> near, far = (float(errors.mse(placement.plan(eta=eta))) for eta in (0.5, 0.3))
        >>> far > 10 * near
        True
    """
    check_kind("placement", placement, Placement, "the result of joulewise.place(model, ...)")
    check_kind("plan", plan, Mapping, "an operating point for each placed tensor")
    check_count("seed", seed, 0)
    check_in_range("memory_bytes", memory_bytes, 1, 1 << 60)
    for placed in placement.placed:
        if not placed.device.adjustable:
            refuse(
                f"the knob of {placed.name}",
                f"{placed.device.knob}, which cannot be chosen",
                "a memory whose operating point is a choice, or predict at each point",
            )
    chosen = {name: as_point(point).detach() for name, point in plan.items()}
    placement.check_plan(chosen)
    with posed(placement, data, chosen, batch_size=batch_size, progress=progress) as problem:
        network = Linearisation(problem, seed=seed, memory_bytes=memory_bytes)
        return _Builder(problem, chosen).build(network)


class _Builder:
    """Builds an error model."""

    def __init__(self, problem: Problem, plan: Mapping[str, Tensor]) -> None:
        self._problem, self._plan = problem, plan
        placed = problem.placement.placed
        self._classes = {p.name: self._classes_of(p) for p in placed}
        self._by_channel = {
            p.name for p in placed if plan[p.name].ndim > (1 if p.device.planes else 0)
        }
        self._rows = {n: point_rows(p, n in self._by_channel) for n, p in plan.items()}
        self._groups = self._grouped()
        self._directions: dict[str, Tensor] = {}
        for first, *others in self._groups:
            directions = mean_directions(
                self._classes[first.name].moments,
                KnobRange.of(first.device),
                self._rows[first.name].shape[1:],
                first.device.smooth,
            )
            self._directions |= dict.fromkeys([p.name for p in (first, *others)], directions)

    def _classes_of(self, placed: Placed) -> WordClasses:
        device: Device[Any] = placed.device
        if placed.role == "weight":
            return device.word_classes(self._problem.memory.stored[placed.name])
        if type(device).word_classes is Device.word_classes:
            refuse(
                f"the memory of {placed.name}",
                f"{type(device).__name__}, which knows no classes of words",
                "one with a word_classes that does not depend on what is stored, for activations",
            )
        # Any activation: only the moments are used, which all have in common.
        return device.word_classes(device.store(torch.zeros(1), limit=placed.limit))

    def _grouped(self) -> list[list[Placed]]:
        """Placed tensors whose classes have the same moments, at points of the same shape."""
        groups: list[list[Placed]] = []
        for placed in self._problem.placement.placed:
            for group in groups:
                first = group[0].name
                same = self._classes[first].moments == self._classes[placed.name].moments
                if same and self._rows[first].shape[1:] == self._rows[placed.name].shape[1:]:
                    group.append(placed)
                    break
            else:
                groups.append([placed])
        return groups

    def build(self, network: Linearisation) -> ErrorModel:
        problem, images, errors = self._problem, 0, []
        squares: dict[str, Tensor] = {}
        response: dict[str, list[Tensor]] = {name: [] for name in self._plan}
        most = max(len(directions) for directions in self._directions.values())
        for piece in network.pieces(most):
            error, found = network.class_sums(
                piece, self._classes, self._directions, self._by_channel
            )
            images += piece.samples
            errors.append(error)
            for name, directions in self._directions.items():
                numbers = len(self._rows[name]) * len(directions)
                none = torch.zeros(piece.samples, numbers, dtype=torch.float64)
                response[name].append(found.moved.get(name, none))
            for name, part in found.squares.items():
                squares[name] = squares[name] + part if name in squares else part
            problem.progress(images, problem.images)
        scaled = {name: part / (images * problem.outputs) for name, part in squares.items()}
        joined = {name: torch.cat(parts) for name, parts in response.items()}
        return ErrorModel(
            plan=self._plan,
            samples=images,
            outputs=problem.outputs,
            error=torch.cat(errors),
            groups=tuple(self._group(group, scaled, joined) for group in self._groups),
        )

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
        return group.with_curves(KnobRange.of(first.device)) if group.smooth and scalar else group
