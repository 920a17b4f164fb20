"""Groups of placed tensors whose words have the same moments, evaluated at any plan together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from joulewise.devices import Knob, Point
from joulewise.devices.moments import ClassMoments
from joulewise.devices.operating_point import as_point
from joulewise.prediction.moment_curves import MomentCurves

__all__ = ["TensorGroup", "mean_directions", "moments_at"]

# Of the directions in which means move: the smallest singular value that
# counts, relative to the norm of the means, and the most directions.
_NEGLIGIBLE, _MOST_DIRECTIONS = 1e-4, 12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TensorGroup:
    """Placed tensors whose words have the same moments.

    A row is a tensor with one point, or one output channel of a tensor with a point for each.

    Args:
        names: The tensors.
        rows: Number of rows of each.
        row: Shape of the point of a row.
        by_channel: True if any tensor has a point for each output channel.
        moments: Moments of each class at the point of a row.
        smooth: True if they are differentiable in the point.
        squares: Squared gradients summed over the words of each class, ``[rows, classes]``.
        directions: Orthonormal directions in which the means of the classes move over the range of
            the knob, ``[directions, classes]``.
        response: Probed output per unit step in each direction, ``[samples, rows * directions]``.
        origin: Coordinates along the directions at the plan of the linearisation,
            ``[rows, directions]``.
        curves: For smooth devices with scalar points, tables of the variance of each row, then of
            the coordinate along each direction, less that at the most reliable point (``origin``
            too). None otherwise.
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]
    row: torch.Size
    by_channel: bool
    moments: ClassMoments
    smooth: bool
    squares: Tensor
    directions: Tensor
    response: Tensor
    origin: Tensor
    curves: MomentCurves | None = None

    def at(self, plan: Mapping[str, Point]) -> tuple[Tensor, Tensor]:
        """Change of the probed outputs, ``[samples]``, and variance by tensor."""
        if not self.by_channel:
            points = torch.stack([as_point(plan[name]) for name in self.names])
        else:
            points = torch.cat([self._rows_of(plan[name], n) for n, name in enumerate(self.names)])
        coordinates, var = self._evaluate(points[None], slice(None))
        moved = self.response @ (coordinates[0] - self.origin).reshape(-1)
        if not self.by_channel:
            return moved, var[0]
        parts = torch.split(var[0], list(self.rows))
        return moved, torch.stack([part.sum() for part in parts])

    def single_changes(
        self, plan: Mapping[str, Point], name: str, points: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Changes when a tensor, or one of its output channels, leaves the plan.

        Args:
            plan: An operating point for each tensor.
            name: The tensor.
            points: The points to try, ``[tried, 1, *point]``; where each channel has a point
                ``[tried, rows, *point]``, one channel moving at a time.

        Returns:
            Changes of the probed outputs, ``[tried, rows, samples]``, and of the variance,
            ``[tried, rows]``.
        """
        place = self.names.index(name)
        rows, first = self.rows[place], sum(self.rows[:place])
        own = slice(first, first + rows)
        now = self._rows_of(plan[name], place)[None]
        coordinates, var = self._evaluate(torch.cat([now, points]), own)
        response = self.response.reshape(len(self.response), len(self.squares), -1)[:, own]
        moved = torch.einsum("srw,trw->trs", response, coordinates[1:] - coordinates[0])
        return moved, var[1:] - var[0]

    def with_curves(self, knob: Knob) -> TensorGroup:
        """The same group with tables over the range of the knob."""
        most, _ = self.moments(torch.tensor(knob.most_reliable, dtype=torch.float64))

        def sums(point: Tensor) -> Tensor:
            mean, var = self.moments(point)
            # Less the means at the most reliable point, which they are close to: the relative error
            # of the table is then one of the difference.
            return torch.cat([self.squares @ var, self.directions @ (mean - most)])

        curves = MomentCurves.tabulate(knob, sums, 8 * len(most))
        return replace(self, curves=curves, origin=self.origin - self.directions @ most)

    def _rows_of(self, point: Point, place: int) -> Tensor:
        """The point of a tensor as the points of its rows, ``[rows, *point]``."""
        point = as_point(point)
        if point.ndim == len(self.row) + 1:
            return point
        if point.ndim == len(self.row) + 2:  # a scalar for each channel, as [channels, 1]
            return point[:, 0]
        return point[None].expand(self.rows[place], *self.row)

    def _evaluate(self, points: Tensor, own: slice) -> tuple[Tensor, Tensor]:
        """Coordinates of some rows along the directions, and their variance.

        Points are ``[points, rows, *point]``; results ``[points, rows, directions]`` and
        ``[points, rows]``.
        """
        row = torch.arange(len(self.squares))[own]
        if self.curves is not None:
            direction = len(self.squares) + torch.arange(len(self.directions))
            which = torch.cat([row[:, None], direction.expand(len(row), -1)], 1)
            found = self.curves.at(points[..., None], which)
            return found[..., 1:], found[..., 0]
        flat, shape = points.flatten(0, 1), points.shape[:2]
        again = None
        # Points that many channels have in common are evaluated once.
        if self.by_channel and not flat.requires_grad:
            flat, again = torch.unique(flat, dim=0, return_inverse=True)
        mean, var = moments_at(self.moments, flat, self.smooth)
        coordinates = mean @ self.directions.mT
        if again is None:
            each = (var.reshape(*shape, -1) * self.squares[own]).sum(-1)
            return coordinates.reshape(*shape, -1), each
        again = again.reshape(shape)
        return coordinates[again], (var @ self.squares[own].mT)[again, torch.arange(len(row))]


def moments_at(moments: ClassMoments, points: Tensor, smooth: bool) -> tuple[Tensor, Tensor]:
    """Mean and variance of each class at several points, ``[points, classes]`` each."""
    if len(points) > 1 and smooth:  # measured maps are evaluated in NumPy, point by point
        found: tuple[Tensor, Tensor] = torch.func.vmap(moments)(points)
        return found
    means, variances = zip(*[moments(point) for point in points], strict=True)
    return torch.stack(means), torch.stack(variances)


def mean_directions(
    moments: ClassMoments, knob: Knob, shape: torch.Size, smooth: bool, *, sampled: int
) -> Tensor:
    """An orthonormal basis of the motion of the class means over the range of the knob.

    Args:
        moments: Moments of each class.
        knob: The knob.
        shape: Shape of a point: of a scalar, or of one for each bit plane.
        smooth: See `TensorGroup`.
        sampled: Number of points.

    Returns:
        ``[directions, classes]``, from a singular value decomposition at random points.
    """
    generator = torch.Generator().manual_seed(0)
    levels = torch.rand(sampled, *shape, generator=generator, dtype=torch.float64, device="cpu")
    if len(shape):  # points whose bit planes are similar, too
        levels = levels * torch.rand(sampled, 1, generator=generator, dtype=torch.float64)
    means, _ = moments_at(moments, knob.points(levels), smooth)
    _, sizes, directions = torch.linalg.svd(means - means.mean(0), full_matrices=False)
    matter = sizes > _NEGLIGIBLE * means.norm()
    basis: Tensor = directions[matter & (torch.arange(len(sizes)) < _MOST_DIRECTIONS)]
    return basis
