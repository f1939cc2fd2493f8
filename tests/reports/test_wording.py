import math

import pytest

from hydragrad.reports.wording import counted, number, percent, signed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.39, "+0.390"),
        (-0.00123456, "−0.00123"),
        (-1.2e-5, "−1.20\xa0×\xa010⁻⁵"),
        (123.4, "+123"),
        (99999.0, "+99,999"),
        (2.5e7, "+2.50\xa0×\xa010⁷"),
        (math.nan, "not a number"),
        (-math.inf, "−∞"),
    ],
)
def test_contributions_show_sign_and_three_digits(value: float, text: str) -> None:
    assert signed(value) == text


def test_numbers_counts_and_shares() -> None:
    assert [number(v) for v in (0.1, 0.05, -3.0, 12345, math.nan)] == ["0.1", "0.05", "−3", "12,345", "–"]
    assert [counted(1, "step"), counted(2000, "step")] == ["1 step", "2,000 steps"]
    assert percent(0.8411) == "84.1%"
