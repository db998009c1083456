"""The shortest vector in a convex hull, from inner products alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def min_norm(gramian: Array) -> Array:
    """Weights w >= 0, Σ w = 1, for which ‖Σ_j w_j v_j‖ is least: (n, n) Gramian v_i · v_j -> (n,).

    Non-negative least squares solves it exactly: over x >= 0, ‖V x‖² + (1ᵀx - 1)² is least at a
    multiple of w, since at a given w the best multiple leaves ‖V w‖² / (1 + ‖V w‖²), which grows
    with ‖V w‖. Vectors that are all zero give equal weights.

    Raises:
        RuntimeError: the solver did not converge.

    Sources: Fliege & Svaiter, Math. Methods Oper. Res. 51, 2000, for the problem; Lawson & Hanson,
    "Solving Least Squares Problems", 1974, for the solver, which is SciPy's.
    """
    from scipy.optimize import nnls

    n = len(gramian)
    scale = float(np.trace(gramian)) / n
    if not scale > 0:
        return np.full(n, 1.0 / n)
    values, vectors = np.linalg.eigh(gramian / scale)
    root = np.sqrt(values.clip(min=0.0))[:, None] * vectors.T
    solution, _ = nnls(np.vstack([root, np.ones(n)]), np.append(np.zeros(n), 1.0))
    total = float(solution.sum())
    return solution / total if total > 0 else np.full(n, 1.0 / n)
