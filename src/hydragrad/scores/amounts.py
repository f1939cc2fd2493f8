"""How contributions are shown to people: in the query's unit only where their scale can be read, otherwise as shares.

A contribution without curvature ranks, but its scale can be off by a factor of a thousand. Next to a loss of 3.3, a
"+11.5" then reads as a change that never happens. So there are three ways to show one:

    calibrated   times the scale that really leaving groups out measured; sums get a prediction interval
    derivative   as it is: a derivative with curvature that no sample's contribution makes implausible
    share        in percent of the sum of the sizes of all contributions to the query

The calibration is fitted to predicted and actual changes of groups: a multiple of the prediction, and as much for every
sample left out, whichever it is (fewer samples in all; no removal, no change). Its prediction interval takes the
groups' scatter around the fit, so that it is wide where predictions are poor.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from hydragrad.scores.evidence import Evidence
from hydragrad.scores.scores import MEANING, Scores

AmountKind = Literal["calibrated", "derivative", "share"]

CONFIDENCE = 0.9
"""Of intervals."""
FEWEST_GROUPS = 5
"""Groups that were left out, below which no scale is fitted."""
IMPLAUSIBLE = 10.0
"""Times the query's value: contributions of single samples beyond are no changes."""
SHARE = " %"
"""What follows a share."""
MEANING_OF_SHARES = "contribution (positive helps; in percent of the sum of all sizes)"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Actual changes of a query when groups are left out: scale * predicted + per_sample * samples left out.

    Attributes:
        scale: What to multiply predictions by.
        low, high: Ends of its 90 % interval.
        per_sample: What every sample left out changes besides, whichever it is: there are fewer in all. 0 where the
            groups' sizes are not known.
        scatter: Standard deviation of actual changes around the fit, unit of the query.
        inverse: The three entries of the inverse of the fit's normal matrix: of the prediction with itself, of both,
            and of the number of samples with itself (0 for the last two without sizes).
        quantile: Of Student's t, for two-sided 90 % intervals.
        largest: The largest size of a prediction that it was fitted to.
        most: Samples of the largest group, or None where that is not known.
        groups: How many groups were left out.
    """

    scale: float
    low: float
    high: float
    per_sample: float
    scatter: float
    inverse: tuple[float, float, float]
    quantile: float
    largest: float
    most: int | None
    groups: int

    @property
    def half(self) -> float:
        """Half of the width of the scale's interval."""
        return (self.high - self.low) / 2

    def change(self, predicted: float, samples: int) -> tuple[float, float, float]:
        """The actual change of a group, and where it lies with 90 %.

        Args:
            predicted: The sum of the group's scores, as they are.
            samples: How many they are.
        """
        own, both, count = self.inverse
        leverage = own * predicted**2 + 2 * both * predicted * samples + count * samples**2
        half = self.quantile * self.scatter * math.sqrt(1 + leverage)
        middle = self.scale * predicted + self.per_sample * samples
        return middle, middle - half, middle + half


def calibrate(
    predicted: Sequence[float], actual: Sequence[float], sizes: Sequence[int] | None = None
) -> Calibration | None:
    """Fit actual to predicted changes of groups that were really left out, both (groups,), unit of the query.

    Args:
        predicted: Sums of scores.
        actual: Changes after training without.
        sizes: Samples of every group, (groups,), where they are known.

    Returns:
        None where there are fewer than five groups, or where the scale is not clearly above zero (the lower end of its
        90 % interval): then predictions say nothing of sizes.
    """
    from scipy.stats import t  # slow to import

    y = np.asarray(actual, float)
    x = np.stack([np.asarray(predicted, float), np.zeros(len(y)) if sizes is None else np.asarray(sizes, float)], 1)
    finite = np.isfinite(x).all(1) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(y) < FEWEST_GROUPS or not x[:, 0].any():
        return None
    extent = np.abs(x).max(0)
    extent[extent == 0] = 1
    units = x / extent  # whatever the unit of the query
    used = [0, 1] if np.linalg.matrix_rank(units) == x.shape[1] else [0]
    inverse, fit = np.zeros((2, 2)), np.zeros(2)
    inverse[np.ix_(used, used)] = np.linalg.inv(units[:, used].T @ units[:, used])
    inverse /= np.outer(extent, extent)
    fit[used] = np.linalg.lstsq(units[:, used], y, rcond=None)[0] / extent[used]
    freedom = len(y) - len(used)
    scatter = float(np.sqrt(((y - x @ fit) ** 2).sum() / freedom))
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, freedom))
    half = quantile * scatter * math.sqrt(inverse[0, 0])
    if not fit[0] - half > 0:
        return None
    return Calibration(
        scale=float(fit[0]),
        low=float(fit[0] - half),
        high=float(fit[0] + half),
        per_sample=float(fit[1]),
        scatter=scatter,
        inverse=(float(inverse[0, 0]), float(inverse[0, 1]), float(inverse[1, 1])),
        quantile=quantile,
        largest=float(np.abs(x[:, 0]).max()),
        most=None if sizes is None else int(x[:, 1].max()),
        groups=len(y),
    )


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How the contributions to one query are shown.

    Attributes:
        kind: As above.
        factor: What a contribution is multiplied by before it is shown.
        calibration: Where they are calibrated.
    """

    kind: AmountKind
    factor: float = 1.0
    calibration: Calibration | None = None

    @property
    def suffix(self) -> str:
        """What follows the number."""
        return SHARE if self.kind == "share" else ""

    @property
    def meaning(self) -> str:
        """Sign and unit, as a heading."""
        if self.calibration is not None:
            return f"{MEANING[:-1]}; as really leaving {self.calibration.groups} groups out measured its scale)"
        return MEANING_OF_SHARES if self.kind == "share" else MEANING

    def text(self, value: float, error: float | None = None) -> str:
        """A contribution, and its standard error where it is known, in three digits."""
        shown = f"{self.factor * value:+.3g}{self.suffix}"
        return shown if error is None else f"{shown} ± {self.factor * error:.1g}{self.suffix}"


def amounts_of(scores: Scores, query: str | int | None = None) -> Amounts:
    """How the contributions to a query are to be shown.

    Raises:
        QueryError: An unknown query, or none given where there are several.
    """
    position = scores.position(query)
    values = scores.values[position]
    calibration = calibration_of(scores.evidence, scores.query_names[position])
    if calibration is not None:
        return Amounts(kind="calibrated", factor=calibration.scale, calibration=calibration)
    if reads_as_change(scores.evidence, values, float(scores.query_values[position])):
        return Amounts(kind="derivative")
    return shares_of(values)


def calibration_of(evidence: Evidence, query: str) -> Calibration | None:
    """The scale of contributions to a query by all groups that were left out; None where it was not measured."""
    checks = [
        check
        for check in evidence.checks
        if check.unit == query
        and check.curvature in (None, evidence.curvature)
        and check.removal == evidence.method.removal
        and check.actual
    ]
    groups: dict[tuple[float, float, int | None], None] = {}
    for check in checks:
        sizes = check.group_sizes or (check.size,) * len(check.predicted)
        groups |= dict.fromkeys(zip(check.predicted, check.actual, sizes, strict=True))
    if not groups:
        return None
    predicted, actual, counts = zip(*groups, strict=True)
    return calibrate(predicted, actual, None if None in counts else counts)


def reads_as_change(evidence: Evidence, values: Tensor, query_value: float) -> bool:
    """Whether contributions may be read as changes although no check measured their scale.

    They take curvature, and no single sample's contribution exceeds the query itself tenfold, as derivatives of
    unstable runs do: leaving out one of many samples does not change a loss by that much.
    """
    if evidence.curvature == "none" or evidence.from_checkpoints or evidence.relative:
        return False
    finite = values[values.isfinite()]
    return bool(len(finite)) and float(finite.abs().max()) <= IMPLAUSIBLE * abs(query_value)


def shares_of(values: Tensor) -> Amounts:
    """Contributions to one query, (samples,), in percent of the sum of their sizes."""
    total = float(values[values.isfinite()].abs().sum())
    return Amounts(kind="share", factor=100 / total if total > 0 else 0.0)
