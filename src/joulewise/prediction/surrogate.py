"""An error model: the output error as a function of the plan, from one pass around one plan.

To first order in the noise, with ``P`` a plan, ``m`` and ``v`` the mean and variance of every word
there, ``S_i`` squared gradients and ``J`` gradients at the mean that plan ``P0`` reads,

    MSE(P) = |f(m(P0)) - z + J (m(P) - m(P0))|^2 + sum_i S_i v_i(P).

Words of one class have the same moments, so ``S`` is summed over the words of each class and what
is left is a product of short vectors: thousands of plans in the time of one forward pass,
differentiable in every operating point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from joulewise.data import Split
from joulewise.devices import Device, KnobRange, Point, WordClasses
from joulewise.devices.device import as_point
from joulewise.errors import check_in_range, refuse
from joulewise.placement import Placed, Placement
from joulewise.prediction.linear import Linearisation
from joulewise.prediction.problem import Problem, posed

__all__ = ["ErrorModel", "error_model"]

Moments = Callable[[Tensor], tuple[Tensor, Tensor]]

# Plans that are tried to see how means may move, and what is left out of it.
_TRIED, _NEGLIGIBLE, _MOST_WAYS = 48, 1e-4, 12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Alike:
    """Placed tensors whose words have the same moments.

    Args:
        names: The tensors.
        moments: Of each class at a point; see `WordClasses`.
        squares: ``S``, summed over each class, ``[tensors, classes]``.
        ways: In which the means of the classes move, orthonormal, ``[ways, classes]``.
        moved: The probed output per unit of each way, ``[samples, tensors * ways]``.
        smooth: As the device says it.
        origin: Where along the ways the plan ``P0`` is, ``[tensors, ways]``.
    """

    names: tuple[str, ...]
    moments: Moments
    squares: Tensor
    ways: Tensor
    moved: Tensor
    smooth: bool
    origin: Tensor

    def at(self, plan: Mapping[str, Point]) -> tuple[Tensor, Tensor]:
        """How far the probed outputs move, ``[samples]``, and the variance by tensor."""
        points = torch.stack([as_point(plan[name]) for name in self.names])
        mean, var = _of_each(self.moments, points, self.smooth)
        along = mean @ self.ways.mT - self.origin
        return self.moved @ along.reshape(-1), (self.squares * var).sum(1)

    def with_one_at(
        self, plan: Mapping[str, Point], name: str, points: Tensor
    ) -> tuple[Tensor, Tensor]:
        """How far outputs move, ``[samples, points]``, and variance, with one tensor elsewhere.

        Both are differences to where the tensor is in the plan.
        """
        row = self.names.index(name)
        before = as_point(plan[name])[None]
        mean, var = _of_each(self.moments, torch.cat([before, points]), self.smooth)
        along = (mean[1:] - mean[0]) @ self.ways.mT
        own = self.moved.reshape(len(self.moved), len(self.names), -1)[:, row]
        return own @ along.mT, (var[1:] - var[0]) @ self.squares[row]


def _of_each(moments: Moments, points: Tensor, smooth: bool) -> tuple[Tensor, Tensor]:
    """Moments at several points, ``[points, classes]``."""
    if len(points) == 1 or not smooth:  # steps are worked out in NumPy, point by point
        means, variances = zip(*[moments(point) for point in points], strict=True)
        return torch.stack(means), torch.stack(variances)
    found: tuple[Tensor, Tensor] = torch.func.vmap(moments)(points)
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ErrorModel:
    """The output error as a function of the plan; see the module and `error_model`.

    Args:
        plan: The plan ``P0`` that it was made around.
        samples: Samples that the figures are a mean over.
        outputs: Outputs of each.
        error: Of the probed outputs at the mean read, ``[samples]``.
        groups: The placed tensors.
    """

    plan: Mapping[str, Point]
    samples: int
    outputs: int
    error: Tensor
    groups: tuple[_Alike, ...]

    def parts(self, plan: Mapping[str, Point]) -> tuple[Tensor, dict[str, Tensor]]:
        """Shift of the mean and variance by tensor, as `Forecast` has them.

        Args:
            plan: An operating point for each placed tensor; those that are tensors with a gradient
                get one.

        Returns:
            ``mean_shift`` and ``variance``, float64.
        """
        error = self.error
        variance: dict[str, Tensor] = {}
        for group in self.groups:
            moved, var = group.at(plan)
            error = error + moved
            variance.update(zip(group.names, var, strict=True))
        return error.square().mean() / self.outputs, variance

    def outputs_off(self, plan: Mapping[str, Point]) -> Tensor:
        """How far the probed outputs at the mean read are from those wanted, ``[samples]``."""
        error = self.error
        for group in self.groups:
            error = error + group.at(plan)[0]
        return error

    def single_changes(
        self, plan: Mapping[str, Point], name: str, points: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What one tensor at other points changes, others as planned.

        Args:
            plan: An operating point for each placed tensor.
            name: The tensor.
            points: The points to try, ``[tried, *point]``.

        Returns:
            How far the probed outputs move, ``[samples, tried]``, and what is added to the
            variance, ``[tried]``; float64.
        """
        group = next(group for group in self.groups if name in group.names)
        moved, variance = group.with_one_at(plan, name, points)
        return moved, variance

    def mse(self, plan: Mapping[str, Point]) -> Tensor:
        """The whole error at a plan, a float64 scalar; see `parts`."""
        shift, variance = self.parts(plan)
        return shift + torch.stack(list(variance.values())).sum()


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
    """The output error of a placement as a function of the plan, around one plan.

    One forward and one backward pass, from a random +-1 probe of each sample's outputs: some 500
    samples are enough. Near ``plan`` it says what `predict` by the first order says, apart from the
    chance in the probes; further away, gradients are those at ``plan``, moments are exact.

    Args:
        placement: What is stored where; its model is left as it was, whatever happens.
        data: As for `predict`; targets are not looked at.
        plan: The plan to linearise around. Points that are numbers get numbers, points for each bit
            plane get points for each bit plane.
        seed: Of the probes.
        batch_size: As for `predict`.
        memory_bytes: What one pass may hold beside the model, roughly.
        progress: As for `predict`.

    Returns:
        The model.

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
    check_in_range("memory_bytes", memory_bytes, 1, 1 << 60)
    chosen = {name: as_point(point).detach() for name, point in plan.items()}
    placement.check_plan(chosen)
    with posed(placement, data, chosen, batch_size=batch_size, progress=progress) as problem:
        network = Linearisation(
            problem,
            memory_bytes=memory_bytes,
            thinned=False,
            generator=torch.Generator().manual_seed(seed),
        )
        return _Maker(problem, chosen).made(network)


class _Maker:
    """Puts an error model together."""

    def __init__(self, problem: Problem, plan: Mapping[str, Tensor]) -> None:
        self._problem, self._plan = problem, plan
        self._classes: dict[str, WordClasses] = {}
        self._moments: dict[str, Moments] = {}
        for placed in problem.placement.placed:
            classes = self._classes_of(placed)
            self._moments[placed.name] = classes.moments
            if placed.role == "weight":
                self._classes[placed.name] = classes
        self._smooth = {p.name: p.device.smooth for p in problem.placement.placed}
        self._groups = self._grouped()
        self._ways = {name: ways for names, ways in self._groups for name in names}

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
        # Any activation will do: what is asked for is what all have in common.
        return device.word_classes(device.store(torch.zeros(1), limit=placed.limit))

    def _grouped(self) -> list[tuple[tuple[str, ...], Tensor]]:
        """Names of tensors with the same moments, and the ways in which their means move."""
        groups: list[list[Placed]] = []
        for placed in self._problem.placement.placed:
            for group in groups:
                first = group[0].name
                same = self._moments[first] == self._moments[placed.name]
                if same and self._plan[first].shape == self._plan[placed.name].shape:
                    group.append(placed)
                    break
            else:
                groups.append([placed])
        return [(tuple(p.name for p in group), self._ways_of(group[0])) for group in groups]

    def _ways_of(self, placed: Placed) -> Tensor:
        """An orthonormal basis of what the means of the classes do over the range of the knob."""
        shape = self._plan[placed.name].shape
        generator = torch.Generator().manual_seed(0)
        shares = torch.rand(_TRIED, *shape, generator=generator, dtype=torch.float64, device="cpu")
        if len(shape):  # planes that are alike, too
            shares = shares * torch.rand(_TRIED, 1, generator=generator, dtype=torch.float64)
        points = KnobRange.of(placed.device).differentiable(shares)
        means, _ = _of_each(self._moments[placed.name], points, placed.device.smooth)
        moved = means - means.mean(0)
        _, sizes, ways = torch.linalg.svd(moved, full_matrices=False)
        matter = (sizes > _NEGLIGIBLE * means.norm()) & (torch.arange(len(sizes)) < _MOST_WAYS)
        basis: Tensor = ways[matter]
        return basis

    def made(self, network: Linearisation) -> ErrorModel:
        problem, images, errors = self._problem, 0, []
        squares: dict[str, Tensor] = {}
        moved: dict[str, list[Tensor]] = {name: [] for name in self._plan}
        most = max(len(ways) for ways in self._ways.values())
        for piece in network.pieces(most):
            error, found = network.responses(piece, self._classes, self._ways)
            images += piece.samples
            errors.append(error)
            for name, ways in self._ways.items():
                none = torch.zeros(piece.samples, len(ways), dtype=torch.float64)
                moved[name].append(found.moved.get(name, none))
            for name, part in found.squares.items():
                squares[name] = squares[name] + part if name in squares else part
            problem.progress(images, problem.images)
        numbers = images * problem.outputs
        return ErrorModel(
            plan=self._plan,
            samples=images,
            outputs=problem.outputs,
            error=torch.cat(errors),
            groups=tuple(
                self._alike(names, ways, squares, moved, numbers) for names, ways in self._groups
            ),
        )

    def _alike(
        self,
        names: Sequence[str],
        ways: Tensor,
        squares: Mapping[str, Tensor],
        moved: Mapping[str, Sequence[Tensor]],
        numbers: int,
    ) -> _Alike:
        moments = self._moments[names[0]]
        smooth = self._smooth[names[0]]
        mean, _ = _of_each(moments, torch.stack([self._plan[name] for name in names]), smooth)
        none = torch.zeros(mean.shape[1], dtype=torch.float64)
        return _Alike(
            names=tuple(names),
            moments=moments,
            squares=torch.stack([squares.get(name, none) for name in names]) / numbers,
            ways=ways,
            moved=torch.cat([torch.cat(list(moved[name])) for name in names], 1),
            smooth=smooth,
            origin=mean @ ways.mT,
        )
