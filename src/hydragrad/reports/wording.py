"""Numbers and names as a reader sees them."""

import math

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def signed(value: float) -> str:
    """A contribution: its sign always shown, three digits, powers of ten written as such."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else f"{'+' if value > 0 else '−'}∞"
    if value == 0:
        return "0"
    # Zeros at the end are kept, so that neighbours can be compared at a glance.
    text = f"{value:#.3g}".rstrip(".") if 1e-3 <= abs(value) < 1e3 else number(value)
    return ("+" if value > 0 else "") + text.replace("-", "−")


def number(value: float) -> str:
    """A number of any size in three digits."""
    if not math.isfinite(value):
        return "–"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:,.3g}".replace("-", "−") if abs(value) < 1e3 else f"{value:,.0f}".replace("-", "−")
    mantissa, exponent = f"{value:.2e}".replace("-", "−", 1 if value < 0 else 0).split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}".replace(" ", "\N{NO-BREAK SPACE}")


def percent(share: float) -> str:
    """A fraction as a percentage."""
    return f"{share:.1%}"


def counted(count: int, thing: str) -> str:
    """A count and what is counted, in the singular or the plural."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"
