"""Non-negative orthogonal matching pursuit: a few atoms, combined, in place of a target vector.

Source: Killamsetty et al., GradMatch, ICML 2021 (orthogonal matching pursuit on gradients, with
weights of at least 0). What is written here is the active-set method of Lawson & Hanson (Solving
Least Squares Problems, 1974, ch. 23), which adds the atom of largest correlation and refits those
it has, stopped when it has as many as were asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from frontrunner.coresets.gradients import Atoms

# Numerical zero: of a pivot beside its diagonal, of a correlation beside the first.
_PIVOT, _CORRELATION = 1e-9, 1e-6


def nonnegative_omp(
    atoms: Atoms, target: Tensor, count: int, *, ridge: float = 0.0, tolerance: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Minimise ‖Σ_i w_i a_i − b‖² + ρ‖w‖² over w ≥ 0 with at most ``count`` of them above 0.

    Inner products of all atoms with a chosen one are computed once, when it is chosen: a step takes
    n·(c + d + s) products for s chosen atoms, and the whole n·count numbers of memory.

    Args:
        atoms: n vectors a_i of D numbers.
        target: b, (D,).
        ridge: ρ in units of the first chosen atom's squared norm.
        tolerance: ends when no correlation is above this share of the first.

    Returns:
        indices (s,) in the order of choice and weights (s,) float64 above 0, s <= count; fewer
        where no further atom reduces the error.
    """
    n = len(atoms)
    count = min(count, n)
    first = atoms.dot(target)
    device = first.device
    columns = first.new_empty(count, n)  # row j belongs to chosen[j]
    chosen: list[int] = []
    free = torch.ones(n, dtype=torch.bool, device=device)
    system = _System(count, ridge)
    correlation = first
    floor = max(tolerance, _CORRELATION) * float(first.max())
    # An atom that was dropped may come back, so rounds are bounded apart from the count.
    for _ in range(3 * count):
        s = len(chosen)
        if s == count:
            break
        best = int(torch.where(free, correlation, -torch.inf).argmax())
        if not bool(free[best]) or float(correlation[best]) <= max(floor, 0.0):
            break
        free[best] = False
        columns[s] = atoms.column(best)
        at = torch.tensor([*chosen, best], device=device)
        stay = system.add(columns[s, at].double().cpu(), float(first[best]))
        if stay is None:
            chosen.append(best)
        else:
            gone = set(range(s)) - set(stay)
            free[[chosen[j] for j in gone]] = True
            columns[: len(stay)] = columns[torch.tensor(stay, dtype=torch.long, device=device)]
            chosen = [[*chosen, best][j] for j in stay]
        correlation = first - system.weights.to(first) @ columns[: len(chosen)]
    return torch.tensor(chosen, dtype=torch.long), system.weights.clone()


class _System:
    """Non-negative least squares over the chosen atoms, from their inner products, in double
    precision.

    Holds T = L⁻¹ of the Cholesky factor L of the Gram matrix: appending an atom is two products
    with T, and moves the weights along T's new row.
    """

    def __init__(self, count: int, ridge: float) -> None:
        self.ridge = ridge
        self.size = 0
        self._gram = torch.zeros(count, count, dtype=torch.float64)
        self._inverse = torch.zeros(count, count, dtype=torch.float64)
        self._right = torch.zeros(count, dtype=torch.float64)
        self._weights = torch.zeros(count, dtype=torch.float64)
        self._added = 0.0

    @property
    def weights(self) -> Tensor:
        """(s,)"""
        return self._weights[: self.size]

    def add(self, inner: Tensor, right: float) -> list[int] | None:
        """Add an atom with these inner products (s + 1,), its own last, and refit. None if all
        atoms stay, else the positions of those that do."""
        s = self.size
        if s == 0:
            self._added = self.ridge * float(inner[0])
        inverse = self._inverse[:s, :s]
        row = inverse @ inner[:s]
        own = float(inner[s]) + self._added
        pivot = own - float(row @ row)
        if pivot <= _PIVOT * own:
            return list(range(s))  # a combination of those that are there
        length = pivot**0.5
        self._gram[s, : s + 1], self._gram[: s + 1, s] = inner, inner
        self._gram[s, s] = own
        self._right[s], self._weights[s] = right, 0.0
        self._inverse[s, :s], self._inverse[s, s] = -(row @ inverse) / length, 1.0 / length
        self.size = s + 1
        last = self._inverse[s, : s + 1]
        step = float(last @ self._right[: s + 1]) * last
        if not bool((self.weights + step <= 0).any()):
            self._weights[: s + 1] += step
            return None
        return self._walk(self.weights + step)

    def _walk(self, solution: Tensor) -> list[int]:
        """Go towards the solution until a weight is 0, drop that atom, solve again; until none
        is."""
        positions = torch.arange(self.size)
        while self.size and bool((solution <= 0).any()):
            now = self.weights
            bad = solution <= 0
            shares = torch.where(bad, now / (now - solution).clamp_min(1e-300), torch.inf)
            share = float(shares.min())
            moved = now + share * (solution - now)
            keep = shares > share
            positions = positions[keep]
            self._keep(keep, moved)
            inverse = self._inverse[: self.size, : self.size]
            solution = inverse.T @ (inverse @ self._right[: self.size])
        self._weights[: self.size] = solution
        return positions.tolist()

    def _keep(self, keep: Tensor, weights: Tensor) -> None:
        s, n = self.size, int(keep.sum())
        gram = self._gram[:s, :s][keep][:, keep]
        self._gram[:n, :n] = gram
        self._right[:n] = self._right[:s][keep]
        self._weights[:n] = weights[keep]
        self.size = n
        factor = torch.linalg.cholesky(gram)
        eye = torch.eye(n, dtype=torch.float64)
        self._inverse[:n, :n] = torch.linalg.solve_triangular(factor, eye, upper=False)
