"""Wire resistance of crossbars: conductances that an array with IR drop has in effect.

An array is linear in its input voltages, so that its output currents are those of an ideal array of
other, effective conductances. Rows are driven at their left end, columns are read, at 0 V, at their
bottom end; one segment of wire lies before every device of a row and after every one of a column.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array
from scipy.sparse.linalg import splu
from torch import Tensor

__all__ = ["solved_conductances", "tiled_factors", "wire_factors"]


def wire_factors(conductances: Tensor, ohm: float) -> Tensor:
    """Effective conductances of an array over those of its devices, to first order in resistance.

    The voltage across device ``(a, j)`` is lower by the drops along its row and its column, which
    are those of the ideal currents. With ``x`` the sum of both over the ideal voltage the factor is
    ``1 / (1 + x)``, which is exact to first order and never negative. Currents of a column depend
    on all its inputs; the drop that input ``b`` causes at ``a`` is attributed to ``b``.

    Args:
        conductances: Siemens, ``[..., rows, columns]``.
        ohm: Resistance of a segment of wire, ohms.

    Returns:
        Above 0 to 1, the same shape; differentiable.
    """
    *_, rows, columns = conductances.shape
    along = torch.arange(1, columns + 1, dtype=conductances.dtype, device=conductances.device)
    down = torch.arange(1, rows + 1, dtype=conductances.dtype, device=conductances.device)
    # Two devices share the segments up to the nearer one: min(j, l) of a row, counted from the
    # driven end, and as many of a column, counted from the end that is read.
    in_row = _shared(conductances, along, -1)
    in_column = _shared(conductances.flip(-2), down, -2).flip(-2)
    return 1 / (1 + ohm * (in_row + in_column))


def tiled_factors(
    conductances: Tensor, rows: int | None, columns: int | None, ohm: float
) -> Tensor:
    """The factors of a matrix that is split into arrays; see `wire_factors`.

    Args:
        conductances: Siemens, ``[rows, columns]``.
        rows: Rows of an array; None for as many as the matrix has.
        columns: Columns of an array; None for as many as the matrix has.
        ohm: Resistance of a segment of wire, ohms.
    """
    tall, wide = rows or conductances.shape[0], columns or conductances.shape[1]
    bands = [
        torch.cat([wire_factors(tile, ohm) for tile in torch.split(band, wide, 1)], 1)
        for band in torch.split(conductances, tall)
    ]
    return torch.cat(bands)


def _shared(conductances: Tensor, place: Tensor, dim: int) -> Tensor:
    """``sum_l g_l min(place_j, place_l)`` along an axis, for ascending places from 1."""
    place = place if dim == -1 else place[:, None]
    # Devices before j are nearer and share their own place with it, those after it share j's.
    weighted = (conductances * place).cumsum(dim)
    total = conductances.sum(dim, keepdim=True) - conductances.cumsum(dim)
    return weighted + place * total


def solved_conductances(conductances: NDArray[np.float64], ohm: float) -> NDArray[np.float64]:
    """Effective conductances of an array, from its nodal equations; exact, and slow.

    Takes 0.1 s for 64 by 64 devices.

    Args:
        conductances: Siemens, ``[rows, columns]``.
        ohm: Resistance of a segment of wire, ohms, above 0.

    Returns:
        Siemens, the same shape: the current of each column for 1 V at each row alone.
    """
    rows, columns = conductances.shape
    cells = rows * columns
    on_row, on_column = np.arange(cells).reshape(rows, columns), np.arange(cells) + cells
    on_column = on_column.reshape(rows, columns)
    wire = 1.0 / ohm
    links = [(on_row.ravel(), on_column.ravel(), conductances.ravel())]
    for one, other in (
        (on_row[:, :-1], on_row[:, 1:]),
        (on_column[:-1], on_column[1:]),
    ):
        links.append((one.ravel(), other.ravel(), np.full(one.size, wire)))
    first, second, values = (np.concatenate(parts) for parts in zip(*links, strict=True))
    diagonal = np.bincount(first, values, 2 * cells) + np.bincount(second, values, 2 * cells)
    ends = np.concatenate([on_row[:, 0], on_column[-1]])  # to the drivers, and to ground
    diagonal = diagonal + np.bincount(ends, minlength=2 * cells) * wire
    at = np.arange(2 * cells)
    # Kirchhoff's law at each node: the sum of conductances on the diagonal, less those of links.
    matrix = coo_array(
        (
            np.concatenate([diagonal, -values, -values]),
            (np.concatenate([at, first, second]), np.concatenate([at, second, first])),
        ),
        shape=(2 * cells, 2 * cells),
    )
    # Reciprocity: the voltages of the drivers' nodes for a current into each column's end.
    currents = np.zeros((2 * cells, columns))
    currents[on_column[-1], np.arange(columns)] = wire
    voltages = splu(csc_array(matrix)).solve(currents)
    found: NDArray[np.float64] = voltages[on_row[:, 0]] * wire
    return found
