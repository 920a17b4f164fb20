"""An error model: the output error as a function of the plan, from one pass around one plan.

To first order in the noise, with ``P`` a plan, ``m`` and ``v`` the mean and variance of every word
there, ``S_i`` squared gradients and ``J`` gradients at the mean that plan ``P0`` reads,

    MSE(P) = |f(m(P0)) - z + J (m(P) - m(P0))|^2 + sum_i S_i v_i(P).

Words of one class have the same moments, so ``S`` is summed over the words of each class and what
is left is a product of short vectors: thousands of plans in the time of one forward pass,
differentiable in every operating point. Where each output channel has a point, ``S`` is summed over
the words of each class in each channel, and every channel's mean moves on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from joulewise.data import Split
from joulewise.devices import Device, KnobRange, Point, WordClasses
from joulewise.devices.operating_point import as_point
from joulewise.errors import check_in_range, refuse
from joulewise.placement import Placed, Placement
from joulewise.prediction.curves import Curves
from joulewise.prediction.linear import Linearisation
from joulewise.prediction.problem import Problem, posed

__all__ = ["ErrorModel", "error_model"]

Moments = Callable[[Tensor], tuple[Tensor, Tensor]]

# Plans that are tried to see how means may move, and what is left out of it.
_TRIED, _NEGLIGIBLE, _MOST_WAYS = 48, 1e-4, 12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Alike:
    """Placed tensors whose words have the same moments.

    A tensor with one point is one row of what follows, one with a point for each output channel as
    many rows as channels.

    Args:
        names: The tensors.
        rows: Of each.
        row: The shape of the point of a row.
        by_channel: Whether any of them has a point for each output channel.
        moments: Of each class at the point of a row; see `WordClasses`.
        squares: ``S``, summed over each class, ``[rows, classes]``.
        ways: In which the means of the classes move, orthonormal, ``[ways, classes]``.
        moved: The probed output per unit of each way, ``[samples, rows * ways]``.
        smooth: As the device says it.
        origin: Where along the ways the plan ``P0`` is, ``[rows, ways]``.
        curves: Of smooth devices whose rows have scalar points: of each row the variance, then of
            each way how far along it the means are; the origin is then counted from there, too.
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]
    row: torch.Size
    by_channel: bool
    moments: Moments
    squares: Tensor
    ways: Tensor
    moved: Tensor
    smooth: bool
    origin: Tensor
    curves: Curves | None = None

    def at(self, plan: Mapping[str, Point]) -> tuple[Tensor, Tensor]:
        """How far the probed outputs move, ``[samples]``, and the variance by tensor."""
        if not self.by_channel:
            points = torch.stack([as_point(plan[name]) for name in self.names])
        else:
            points = torch.cat([self._point_of(plan[name], n) for n, name in enumerate(self.names)])
        along, var = self._of_rows(points[None], slice(None))
        moved = self.moved @ (along[0] - self.origin).reshape(-1)
        if not self.by_channel:
            return moved, var[0]
        parts = torch.split(var[0], list(self.rows))
        return moved, torch.stack([part.sum() for part in parts])

    def with_others_at(
        self, plan: Mapping[str, Point], name: str, points: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same with each row of one tensor at other points, apart from its other rows.

        Both are differences to where the row is in the plan, ``[tried, rows, samples]`` and
        ``[tried, rows]``.
        """
        place = self.names.index(name)
        rows, first = self.rows[place], sum(self.rows[:place])
        own = slice(first, first + rows)
        now = self._point_of(plan[name], place)[None]
        along, var = self._of_rows(torch.cat([now, points]), own)
        moved = self.moved.reshape(len(self.moved), len(self.squares), -1)[:, own]
        return torch.einsum("srw,trw->trs", moved, along[1:] - along[0]), var[1:] - var[0]

    def _point_of(self, point: Point, place: int) -> Tensor:
        """A tensor's point as those of its rows, ``[rows, *point]``."""
        point = as_point(point)
        if point.ndim == len(self.row) + 1:
            return point
        if point.ndim == len(self.row) + 2:  # scalars of channels
            return point[:, 0]
        return point[None].expand(self.rows[place], *self.row)

    def _of_rows(self, points: Tensor, own: slice) -> tuple[Tensor, Tensor]:
        """How far along the ways some rows are, and their variance, at several points of each.

        Args:
            points: ``[points, rows, *point]``.
            own: Which rows.

        Returns:
            ``[points, rows, ways]`` and ``[points, rows]``.
        """
        row = torch.arange(len(self.squares))[own]
        if self.curves is not None:
            way = len(self.squares) + torch.arange(len(self.ways))
            which = torch.cat([row[:, None], way.expand(len(row), -1)], 1)
            found = self.curves.at(points[..., None], which)
            return found[..., 1:], found[..., 0]
        flat, shape = points.flatten(0, 1), points.shape[:2]
        # What many channels have in common is worked out once.
        if self.by_channel and not flat.requires_grad:
            flat, again = torch.unique(flat, dim=0, return_inverse=True)
            again = again.reshape(shape)
            mean, var = _of_each(self.moments, flat, self.smooth)
            each = (var @ self.squares[own].mT)[again, torch.arange(len(row))]
            return (mean @ self.ways.mT)[again], each
        mean, var = _of_each(self.moments, flat, self.smooth)
        along = (mean @ self.ways.mT).reshape(*shape, -1)
        return along, (var.reshape(*shape, -1) * self.squares[own]).sum(-1)


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
        off, variance = self.outputs_off(plan)
        return off.square().mean() / self.outputs, variance

    def outputs_off(self, plan: Mapping[str, Point]) -> tuple[Tensor, dict[str, Tensor]]:
        """How far the probed outputs at the mean read are from those wanted, and the variance.

        Args:
            plan: As for `parts`.

        Returns:
            float64 ``[samples]``, and ``variance`` as `parts` has it.
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
        """What one tensor, or one of its output channels, at other points changes.

        Args:
            plan: An operating point for each placed tensor.
            name: The tensor.
            points: The points to try, ``[tried, 1, *point]``; where channels have points of their
                own ``[tried, channels, *point]``, each tried apart from the others.

        Returns:
            How far the probed outputs move, ``[tried, channels, samples]``, and what is added to
            the variance, ``[tried, channels]``; float64.
        """
        group = next(group for group in self.groups if name in group.names)
        return group.with_others_at(plan, name, points)

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
    chance in the probes; further away, gradients are those at ``plan``, moments are exact. Those of
    scalar points come from tables, within a millionth.

    What the first order leaves out, a rectifier that only noise switches on above all, is left out
    here, and plans that are chosen by this lean on it, the more so the more points they have: chips
    may have more error than a plan of channels was chosen for, and `allocate` asks them.

    Args:
        placement: What is stored where; its model is left as it was, whatever happens.
        data: As for `predict`; targets are not looked at.
        plan: The plan to linearise around. Points that are numbers get numbers, points for each bit
            plane get points for each bit plane, points for each output channel get points for each
            output channel or one for all.
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
        self._channels = {
            p.name: len(plan[p.name])
            for p in problem.placement.placed
            if plan[p.name].ndim > (1 if p.device.planes else 0)
        }
        self._rows = {name: _rows(p, name in self._channels) for name, p in plan.items()}
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
                if same and self._rows[first].shape[1:] == self._rows[placed.name].shape[1:]:
                    group.append(placed)
                    break
            else:
                groups.append([placed])
        return [(tuple(p.name for p in group), self._ways_of(group[0])) for group in groups]

    def _ways_of(self, placed: Placed) -> Tensor:
        """An orthonormal basis of what the means of the classes do over the range of the knob."""
        shape = self._rows[placed.name].shape[1:]
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
            error, found = network.responses(piece, self._classes, self._ways, self._channels)
            images += piece.samples
            errors.append(error)
            for name, ways in self._ways.items():
                numbers = len(self._rows[name]) * len(ways)
                none = torch.zeros(piece.samples, numbers, dtype=torch.float64)
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
        rows = [self._rows[name] for name in names]
        mean, _ = _of_each(moments, torch.cat(rows), smooth)
        none = torch.zeros(mean.shape[1], dtype=torch.float64)
        summed = torch.cat(
            [
                squares.get(name, none).expand(len(row), -1)
                for name, row in zip(names, rows, strict=True)
            ]
        )
        alike = _Alike(
            names=tuple(names),
            rows=tuple(len(row) for row in rows),
            row=rows[0].shape[1:],
            by_channel=not self._channels.keys().isdisjoint(names),
            moments=moments,
            squares=summed / numbers,
            ways=ways,
            moved=torch.cat([torch.cat(list(moved[name])) for name in names], 1),
            smooth=smooth,
            origin=mean @ ways.mT,
        )
        if not smooth or rows[0].ndim > 1:
            return alike
        (placed,) = (p for p in self._problem.placement.placed if p.name == names[0])
        return _with_curves(alike, KnobRange.of(placed.device))


def _rows(point: Tensor, by_channel: bool) -> Tensor:
    """A point as rows: of the tensor as a whole, or of each channel, ``[rows, *point]``."""
    if not by_channel:
        return point[None]
    return point[:, 0] if point.ndim == 2 and point.shape[1] == 1 else point


def _with_curves(alike: _Alike, limits: KnobRange) -> _Alike:
    """The same with tables of what is asked of it at many points."""
    most, _ = alike.moments(torch.tensor(limits.most, dtype=torch.float64))

    def figures(point: Tensor) -> Tensor:
        mean, var = alike.moments(point)
        # Means are near those at the most reliable point: only the difference is to be exact.
        return torch.cat([alike.squares @ var, alike.ways @ (mean - most)])

    curves = Curves.tabulated(limits, figures, 8 * len(most))
    return replace(alike, curves=curves, origin=alike.origin - alike.ways @ most)
