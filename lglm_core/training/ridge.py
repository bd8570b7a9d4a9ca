"""Ridge regression in closed form, from sums over one pass that are added up across workers.

For standardised features x and 0/1 targets y, the weights W minimise Σ|y - Wx - b|² / n + ridge·|W|². An
unknown target counts as its label's mean. Unless the ridge is given, it is the candidate with the least
generalised cross-validation error (Golub, Heath and Wahba, Technometrics 1979), which follows from the same
sums.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

CANDIDATES = tuple(10.0 ** (exponent / 4) for exponent in range(-16, 17))
SMALLEST_DEVIATION = 1e-6
SMALLEST_DIVISOR = 1e-12  # for directions that no picture determines, without a ridge


class RidgeRegression:
    """Accumulates the sums of a regression over pictures, then solves it.

    ``sums`` hold what this worker added since the last solution, ``totals`` what all workers added before.

    Args:
        feature_width: D, the width of the features.
        labels: C, the number of labels.
        ridge: The weight of the squared coefficients; None chooses it by generalised cross-validation.
        device: Where the sums are kept.
    """

    def __init__(self, feature_width: int, labels: int, ridge: float | None, device: torch.device) -> None:
        self.ridge = ridge
        shapes: dict[str, tuple[int, ...]] = {
            "known": (labels,),
            "positives": (labels,),
            "n": (),
            "x": (feature_width,),
            "xx": (feature_width, feature_width),
            "xy": (feature_width, labels),
            "x_unknown": (feature_width, labels),
        }
        self.sums, self.totals = (
            {name: torch.zeros(shape, dtype=torch.float64, device=device) for name, shape in shapes.items()}
            for _ in range(2)
        )

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Add a batch of pictures.

        Args:
            features: Pooled features, [B, D] of any float dtype.
            targets: [B, C] of 1 = present, 0 = absent, -1 = unknown.
        """
        x, known = features.double(), (targets >= 0).double()
        present = (targets == 1).double()
        for name, value in {
            "known": known.sum(dim=0),
            "positives": present.sum(dim=0),
            "n": torch.tensor(float(len(x)), dtype=torch.float64, device=x.device),
            "x": x.sum(dim=0),
            "xx": x.T @ x,
            "xy": x.T @ present,
            "x_unknown": x.T @ (1 - known),
        }.items():
            self.sums[name] += value

    def _gather(self) -> dict[str, Tensor]:
        """Add the sums of all workers to the totals, which are the same on every worker, and return these."""
        for name, value in self.sums.items():
            if dist.is_initialized():
                dist.all_reduce(value)
            self.totals[name] += value
            value.zero_()
        return self.totals

    def solve(self) -> tuple[Tensor, Tensor, float, float]:
        """Solve the regression over everything added so far.

        Returns:
            Weight [C, D] and bias [C] for raw features, the ridge, and the error Σ|y - Wx - b|² / n.
        """
        sums = self._gather()
        n, mean = sums["n"], sums["x"] / sums["n"]
        prevalence = sums["positives"] / sums["known"].clamp(min=1)
        covariance = sums["xx"] / n - mean[:, None] * mean[None, :]
        deviation = covariance.diagonal().clamp(min=0).sqrt().clamp(min=SMALLEST_DEVIATION)
        covariance = covariance / deviation[:, None] / deviation[None, :]
        # An unknown target is its label's mean, so it is 0 once the mean is subtracted.
        cross = (sums["xy"] + sums["x_unknown"] * prevalence) / n - mean[:, None] * prevalence
        cross = cross / deviation[:, None]
        variance = (sums["known"] / n * prevalence * (1 - prevalence)).sum()

        values, vectors = torch.linalg.eigh(covariance)
        values = values.clamp(min=0)
        energy = (vectors.T @ cross).square().sum(dim=1)

        def error(ridge: float) -> Tensor:
            shrunk = 1 / (values + ridge).clamp(min=SMALLEST_DIVISOR)
            return (variance - (energy * (2 * shrunk - values * shrunk.square())).sum()).clamp(min=0)

        def cross_validation(ridge: float) -> float:
            freedom = (values / (values + ridge)).sum() + 1
            return float(error(ridge) / (1 - freedom / n).clamp(min=1e-6).square())

        ridge = min(CANDIDATES, key=cross_validation) if self.ridge is None else self.ridge
        solution = vectors @ ((vectors.T @ cross) / (values + ridge).clamp(min=SMALLEST_DIVISOR)[:, None])
        weight = (solution / deviation[:, None]).T
        return weight, prevalence - weight @ mean, ridge, float(error(ridge))

    def state_dict(self) -> dict[str, Any]:
        """Return the totals at the last solution, for a checkpoint; they are the same on every worker."""
        return dict(self.totals)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace the totals by those of a checkpoint."""
        for name, value in self.totals.items():
            value.copy_(state[name])
            self.sums[name].zero_()
