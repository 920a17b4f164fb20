"""Error model: output error or divergence as a function of the plan, from one linearisation.

To first order in the noise, with ``P`` a plan, ``m`` and ``v`` the mean and variance of every word,
``f`` the outputs, ``z`` those of the model as given, and ``J`` and ``S_i`` gradients and squared
gradients of ``f`` at the mean ``m(P0)`` that the plan ``P0`` of the linearisation reads,

    MSE(P) = |f(m(P0)) - z + J (m(P) - m(P0))|^2 + sum_i S_i v_i(P).

Words of one class have the same moments, so ``S`` is summed once over the words of each class. A
plan then costs a product of short vectors: thousands of plans in the time of one forward pass,
differentiable in every operating point. Where each output channel has a point, ``S`` is summed over
the words of each class in each channel, and each channel's mean shifts separately.

For the divergence of a network with a cross-entropy, random +-1 probes of the outputs give way to
random scores, whose products with a change of the outputs have the square
``d^T (diag p - p p^T) d``, twice the divergence to second order; see `joulewise.prediction.fisher`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from joulewise.data import Split
from joulewise.devices import Point
from joulewise.devices.operating_point import as_point
from joulewise.errors import check_count, check_in_range, refuse
from joulewise.placement import At, Memory, Placement, guarded, private_memory
from joulewise.prediction.error_parts import Part, grouped, tensor_group
from joulewise.prediction.fisher_scores import Draw, FisherScores, WeightGradient
from joulewise.prediction.head_curvature import HeadCurvature
from joulewise.prediction.linearisation import Linearisation
from joulewise.prediction.problem import Problem, loaded_problem
from joulewise.prediction.tensor_groups import TensorGroup, moments_at
from joulewise.progress import Progress, reporting

__all__ = ["ErrorModel", "error_model", "weight_error_model"]


# Random +-1 probes of the weights' relative error; draws of scores for each row of a divergence,
# and of all batches together, the fewest.
_PROBES, _DRAWS, _FEWEST_DRAWS = 64, 2, 16
# Divergence of a row, nats, below which it is rounding of float32.
_NO_DIVERGENCE = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ErrorModel:
    """Output error or divergence as a function of the plan; see `error_model`.

    A probed output is the inner product of a sample's outputs with a random +-1 vector, or that of
    a batch's with random scores (see `FisherScores`). Where ``points`` is an argument it holds an
    operating point for each placed tensor, on its device's knob, of a shape that fits; points may
    require gradients.

    Args:
        placement: The model and its memories.
        outputs: Divisor of squared probed outputs: outputs of a sample, or twice the rows of a
            batch.
        offset: Error of the probed outputs at the mean that the plan of the linearisation reads,
            ``[samples]``.
        groups: The placed tensors, grouped by equal moments.
        beyond: By name of a tensor, the part of its divergence that is not of second order, as a
            function of its point.
    """

    placement: Placement
    outputs: float
    offset: Tensor
    groups: tuple[TensorGroup, ...]
    beyond: Mapping[str, Callable[[Point], Tensor]] = field(default_factory=dict)

    def error(self, at: At) -> Tensor:
        """Output error or divergence, a float64 scalar, differentiable in the values of ``at``."""
        return self.error_at(self.placement.points(at))

    def error_at(self, points: Mapping[str, Point]) -> Tensor:
        """Output error or divergence at some points."""
        shift, variance = self.shift_and_variance(points)
        return shift + torch.stack(list(variance.values())).sum()

    def shift_and_variance(self, points: Mapping[str, Point]) -> tuple[Tensor, dict[str, Tensor]]:
        """``mean_shift`` and ``variance`` as `Forecast` has them, float64."""
        # E (s . e)^2 = |e|^2 for a random +-1 vector s.
        off, variance = self.output_errors(points)
        return off.square().mean() / self.outputs, variance

    def output_errors(self, points: Mapping[str, Point]) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of the probed outputs at the mean read, ``[samples]``, and variance by tensor."""
        off = self.offset
        variance: dict[str, Tensor] = {}
        for group in self.groups:
            moved, var = group.at(points)
            off = off + moved
            variance.update(zip(group.names, var, strict=True))
        for name, beyond in self.beyond.items():
            variance[name] = variance[name] + beyond(points[name])
        return off, variance

    def single_changes(
        self, points: Mapping[str, Point], name: str, tried: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Changes when one tensor leaves the plan; see `TensorGroup.single_changes`."""
        group = next(group for group in self.groups if name in group.names)
        moved, variance = group.single_changes(points, name, tried)
        if name in self.beyond:
            beyond, now = self.beyond[name], self.beyond[name](points[name])
            if variance.shape[1] == 1:
                each = torch.stack([beyond(row) for row in tried[:, 0]])
                variance = variance + (each - now)[:, None]
            # Else left out: one channel of many changes the mean rate of the head but little.
        return moved, variance


@guarded
def error_model(
    placement: Placement,
    data: Split | Iterable[Any],
    *,
    at: At,
    of: Literal["outputs", "divergence"] = "outputs",
    metric: Any = None,
    seed: int = 0,
    batch_size: int | None = None,
    memory_bytes: int = 1 << 30,
    progress: Progress = False,
) -> ErrorModel:
    """Linearise the output error of a placement around one plan, as a function of the plan.

    With ``of="divergence"`` the Kullback-Leibler divergence of the softmax from that of the model
    as given, nats, mean over rows that count for the metric, takes the place of the output error;
    outputs are logits, and batches may differ in shape.

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
        of: ``"outputs"`` or ``"divergence"``.
        metric: Tells the rows that count for a divergence; see `joulewise.simulation.simulate`.
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
        >>> near, far = (float(errors.error({"eta": eta})) for eta in (0.5, 0.3))
        >>> far > 10 * near
        True
    """
    seed = check_count("seed", seed, 0)
    check_in_range("memory_bytes", memory_bytes, 1, 1 << 60)
    if of not in ("outputs", "divergence"):
        refuse("of", repr(of), "outputs or divergence")
    with (
        reporting(progress) as report,
        loaded_problem(
            placement,
            data,
            at,
            metric=metric,
            targets=of == "divergence",
            one_shape=of == "outputs",
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
        groups = grouped(placement, problem.memory, points)
        if of == "divergence":
            return _divergence_model(placement, problem, groups, seed)
        network = Linearisation(problem, seed=seed, memory_bytes=memory_bytes)
        error = _probed_error(problem, network, groups)
        numbers = problem.samples * problem.outputs
        made = tuple(tensor_group(group, numbers) for group in groups)
        return ErrorModel(placement=placement, outputs=problem.outputs, offset=error, groups=made)


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
        groups = grouped(placement, memory, points)
        error = _weight_error(memory, [part for group in groups for part in group])
    made = tuple(tensor_group(group, 1) for group in groups)
    return ErrorModel(placement=placement, outputs=1, offset=error, groups=made)


def _probed_error(
    problem: Problem, network: Linearisation, groups: Sequence[Sequence[Part]]
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
                    parts[use.placed.name].add_activation(use.inputs, g)
        done += piece.samples
        problem.progress(done, problem.samples)
    return torch.cat(errors)


def _divergence_model(
    placement: Placement, problem: Problem, groups: Sequence[Sequence[Part]], seed: int
) -> ErrorModel:
    """The divergence as a function of the plan, from a few draws of scores for each row.

    For a change ``d`` of a batch's outputs at the mean, with divergence ``D = 1/2 d^T F d`` and
    gradient ``G = F d``, and a further change ``e``, ``d`` and ``F`` those of all its rows,

        1/2 (d + e)^T F (d + e) = 1/2 (sqrt(2 D) + G e / sqrt(2 D))^2 + 1/2 E (s' e)^2.

    The first is exact: a probed output of its own. Scores ``s`` (see `FisherScores`) give the rest
    without the part along ``d``, ``s' = s - (s d) / (2 D) G``.
    """
    parts = {part.placed.name: part for group in groups for part in group}
    scores = FisherScores(problem, seed=seed)
    head = None
    if scores.head is not None:
        head = HeadCurvature(parts[scores.head.name], problem, variable=True)
    offsets: list[float] = []
    rows, draws = 0, max(_DRAWS, math.ceil(_FEWEST_DRAWS / len(problem.numbers)))
    for place, number in enumerate(problem.numbers, 1):
        one = scores.forward(number)
        divergence, rows = one.divergence, rows + one.rows
        # The exact term: the offset sqrt(2 D), and responses G, divided by sqrt(2 D) at the end.
        _add_responses(parts, partial(scores.divergence, one), head, squares=False)
        offsets.append((2 * divergence) ** 0.5)
        # Without a divergence there is no direction to take off.
        along = 1 / (2 * divergence) if divergence > _NO_DIVERGENCE * one.rows else 0.0
        for number_of_draw in range(draws):
            scored = partial(scores.draw, one, number_of_draw)
            offset = _add_responses(parts, scored, head, squares=True).offset()
            for part in parts.values():
                # s' = s - (s d) / (2 D) G; its square is a mean over draws.
                pulled = part.response[-2 - number_of_draw]
                part.response[-1] -= offset * along * pulled
                part.response[-1] /= draws**0.5
            offsets.append(0.0)
        for part in parts.values():
            part.response[-1 - draws] *= along**0.5
        if head is not None and one.hidden is not None:
            head.add(one.hidden, one.log_p.detach())
        del one, scored  # frees the graph of this batch before the next one is built
        problem.progress(place, len(problem.numbers))
    if head is not None:
        head.part.squares = head.part.squares + head.squares() * (rows * draws)
    return ErrorModel(
        placement=placement,
        outputs=2 * rows / len(offsets),
        offset=torch.tensor(offsets, dtype=torch.float64),
        groups=tuple(tensor_group(group, 2 * rows * draws) for group in groups),
        beyond={} if head is None else head.beyond(),
    )


def _add_responses(
    parts: Mapping[str, Part],
    differentiated: Callable[[WeightGradient], Draw],
    head: HeadCurvature | None,
    *,
    squares: bool,
) -> Draw:
    """Add the responses of a scalar function of the outputs, and its squared gradients."""
    for part in parts.values():
        numbers = len(part.rows) * len(part.directions)
        part.response.append(torch.zeros(1, numbers, dtype=torch.float64))
    draw = differentiated(lambda name, g: parts[name].add_response(g, squares=squares))
    if head is not None and (gradient := draw.head()) is not None:
        head.part.add_response(gradient, squares=False)
    for use, caught in draw.activations:
        if caught is not None:
            parts[use.placed.name].add_activation(use.inputs, caught, squares=squares)
    return draw


def _weight_error(memory: Memory, parts: Sequence[Part]) -> Tensor:
    """The relative error of the weights at the plan, probed; see `weight_error_model`."""
    generator = torch.Generator().manual_seed(0)
    error = torch.zeros(_PROBES, dtype=torch.float64)
    for part in parts:
        placed, rows, moments = part.placed, part.rows, part.moments
        weights = placed.device.ideal(memory.stored[placed.name]).double()
        each = torch.full_like(weights, 1 / max(float(weights.square().sum()), 1e-300))
        sums = part.classes.summed(each, by_channel=part.by_channel).reshape(len(rows), -1).cpu()
        # E (sum_c s_c a_c)^2 = sum_c a_c^2 for random signs s: probes give the squared shift.
        signs = torch.randint(2, (_PROBES, *sums.shape), generator=generator) * 2 - 1
        probes = signs * sums.sqrt()
        now, _ = moments_at(moments, rows, placed.device.smooth)
        # Words of a class store the same value, but for their scales and rounding to the class.
        ones = torch.ones_like(weights)
        counts = part.classes.summed(ones, by_channel=part.by_channel).reshape(len(rows), -1)
        stored = part.classes.summed(weights, by_channel=part.by_channel, power=1)
        ideal = (stored.reshape(len(rows), -1) / counts.clamp(min=1e-300)).cpu()
        # p: probes, r: rows (points of the tensor), c: classes of words, d: directions.
        error += torch.einsum("prc,rc->p", probes, now - ideal)
        moved = torch.einsum("prc,dc->prd", probes, part.directions)
        part.squares, part.response = sums, [moved.flatten(1)]
    return error
