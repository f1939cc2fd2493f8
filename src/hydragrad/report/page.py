"""The page: plain data to HTML, figures drawn and embedded, all text escaped."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from hydragrad.figures import (
    accuracy_bars,
    contribution_histogram,
    data_uri,
    for_dark_pages,
    found_curve,
    predicted_against_actual,
    to_svg,
    training_curves,
)
from hydragrad.report.content import Content, Distribution
from hydragrad.report.verdict import Check
from hydragrad.report.wording import number, percent, signed

SHOWN_CARDS = 24
"""Cards of a group that are seen at once; the others unfold, so that the sections after them can be found."""


@dataclass(frozen=True)
class Drawing:
    """A figure as data URIs, for light and for dark pages, and its text for those who don't see it."""

    light: str
    dark: str
    alt: str


def page(content: Content) -> str:
    """Return the HTML file's text."""
    style = _asset("page.css")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = percent
    return environment.from_string(_asset("page.html")).render(
        content=content,
        shown_cards=SHOWN_CARDS,
        style=Markup(style),  # our own file; hashed in the policy, so it must not be escaped
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        **_drawings(content),
    )


def _asset(name: str) -> str:
    return resources.files("hydragrad.report").joinpath(name).read_text(encoding="utf-8")


def _drawings(content: Content) -> dict[str, Any]:
    values = content.distribution
    return {
        "bars": _draw(accuracy_bars(content.accuracies), _bars_alt(content.accuracies)) if content.accuracies else None,
        "found": _draw(found_curve(*content.found), "Share of flipped labels found against share inspected.")
        if content.found
        else None,
        "histogram": _histogram(content.query, values) if values.values.size else None,
        "curves": _draw(training_curves(content.logs), _curves_alt(content.logs)) if content.logs else None,
        "checks": [(check, _check(check)) for check in content.checks],
    }


def _draw(figure: Figure, alt: str) -> Drawing:
    light = to_svg(figure)
    return Drawing(data_uri(light, "image/svg+xml"), data_uri(for_dark_pages(light), "image/svg+xml"), alt)


def _histogram(query: str, distribution: Distribution) -> Drawing:
    values = distribution.values
    figure = contribution_histogram(values, marked=distribution.marked, marked_name="flipped labels", query=query)
    alt = (
        f"Histogram of {values.size:,} contributions: lowest {signed(values.min())}, highest "
        f"{signed(values.max())}; {int((values < 0).sum()):,} are negative, "
        f"{int((values > 0).sum()):,} positive."
    )
    return _draw(figure, alt)


def _check(check: Check) -> Drawing | None:
    """A scatter, unless there is just one point."""
    if check.agreement.count == 1:
        return None
    figure = predicted_against_actual(check.predicted, check.actual, unit=check.unit)
    return _draw(figure, f"Scatter of actual against predicted changes. {check.sentence}")


def _bars_alt(accuracies: Mapping[str, float]) -> str:
    return "Bars: " + ", ".join(f"{name} {percent(value)}" for name, value in accuracies.items()) + "."


def _curves_alt(logs: Any) -> str:
    last = logs[-1]
    ends = [
        f"{key.replace('_', ' ')} {number(value)}"
        for key, value in last.items()
        if key.endswith(("_loss", "_accuracy"))
    ]
    return f"Curves over {len(logs)} epochs; at the end: {', '.join(ends)}."
