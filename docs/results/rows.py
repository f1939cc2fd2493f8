"""Rows of measurements, and tables of Markdown: reading, rounding, joining."""

import json
from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import numpy as np
import pandas as pd

FOLDER = Path(__file__).parent


def read_rows(name: str) -> pd.DataFrame:
    """Read the rows of a study, a line of JSON each."""
    return pd.DataFrame(json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines() if line)


def number(value: float, digits: int) -> str:
    """Return a rounded number with a minus sign; an empty cell for NaN."""
    if pd.isna(value):
        return ""
    # Halves are rounded up in decimal: binary halves depend on the order of a sum.
    rounded = Decimal(f"{value:.10f}").quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return f"{abs(rounded) if rounded == 0 else rounded}".replace("-", "−")


def percent(share: float, digits: int = 0) -> str:
    """Return a share in percent."""
    return f"{100 * share:.{digits}f} %"


def significant(value: float, digits: int) -> str:
    """Return a positive number with so many significant digits, without an exponent."""
    if value >= 10**digits:
        return f"{float(f'{value:.{digits - 1}e}'):,.0f}"
    return np.format_float_positional(value, precision=digits, fractional=False, trim="-")


def mean(values: Iterable[float], digits: int) -> str:
    """Return the mean, with the standard deviation if there are several values; an empty cell for none."""
    known = pd.Series(values, dtype=float).dropna()
    spread = f" ± {known.std():.{digits}f}" if len(known) > 1 else ""
    return number(known.mean(), digits) + spread


def interval(value: float, low: float, high: float, digits: int) -> str:
    """Return a value with its interval."""
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def markdown(headings: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Return a table."""
    headings = list(headings)
    rows = [headings, ["---"] * len(headings), *map(list, lines)]
    assert all(len(row) == len(headings) for row in rows)
    return "\n".join("|" + "".join(f" {cell} |" if cell else " |" for cell in row) for row in rows)
