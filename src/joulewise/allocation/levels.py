"""Levels: operating points from a list, such as the few supplies that a chip has.

Which level each variable gets is a knapsack: a mixed-integer programme, solved by HiGHS.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import LinearConstraint, milp

__all__ = ["assigned"]

Floats = NDArray[np.float64]

_SECONDS, _GAP = 2.0, 5e-4


def assigned(costs: Floats, harms: Floats, limit: float) -> NDArray[np.int64] | None:
    """The level of each variable, so that costs are least and harms sum to at most a limit.

    Args:
        costs: ``[variables, levels]``.
        harms: Likewise.
        limit: Of the sum of harms.

    Returns:
        ``[variables]``; None where no choice stays within the limit.

    Example:
        >>> costs, harms = np.array([[1.0, 2.0], [1.0, 2.0]]), np.array([[3.0, 1.0], [9.0, 2.0]])
        >>> assigned(costs, harms, 5.0).tolist()
        [0, 1]
    """
    if harms.min(1).sum() > limit:
        return None
    variables, levels = costs.shape
    one_each = sparse.kron(sparse.eye_array(variables), np.ones((1, levels)), format="csr")
    size = max(abs(limit), 1e-300)
    constraints = [
        LinearConstraint(one_each, 1, 1),
        LinearConstraint(harms.reshape(1, -1) / size, -np.inf, limit / size),
    ]
    found = milp(
        costs.reshape(-1),
        constraints=constraints,
        integrality=np.ones(costs.size),
        bounds=(0, 1),
        options={"time_limit": _SECONDS, "mip_rel_gap": _GAP},
    )
    shares = np.asarray(-harms if found.x is None else found.x).reshape(variables, levels)
    chosen: NDArray[np.int64] = shares.argmax(1)
    return chosen
