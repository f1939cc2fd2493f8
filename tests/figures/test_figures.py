"""Every figure: its axes, its refusals, and that matplotlib's settings stay as they were."""

import subprocess
import sys
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.figure import Figure

from hydragrad.errors import HydragradError, PresentationError
from hydragrad.figures import (
    agreement,
    contribution_histogram,
    found_curve,
    picture_grid,
    predicted_against_actual,
    to_svg,
)

PICTURE = np.arange(48, dtype=np.uint8).reshape(6, 8)
FIGURES: dict[str, Callable[[], Figure]] = {
    "contributions": lambda: contribution_histogram(np.linspace(-1, 2, 30), query="the loss"),
    "detection": lambda: found_curve([0, 0.8, 1], [0, 0.5, 1]),
    "checks": lambda: predicted_against_actual([1, 2, 3], [2, 4, 7], unit="nats"),
    "pictures": lambda: picture_grid([PICTURE] * 3, ["a", "b", "c"], 2),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_does_not_depend_on_the_global_settings(name: str) -> None:
    expected = to_svg(FIGURES[name]())
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "none"}):
        before = dict(matplotlib.rcParams)
        assert to_svg(FIGURES[name]()) == expected
        assert dict(matplotlib.rcParams) == before


def test_importing_figures_does_not_import_pyplot() -> None:
    code = "import sys, hydragrad.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_histogram_counts_every_sample_once() -> None:
    values = np.array([-5.0, -1.0, 0.0, 0.5, 1.0, 3.0])
    marked = np.array([True, True, False, False, False, False])
    figure = contribution_histogram(values, marked=marked, marked_name="flipped labels", query="validation loss")
    (axes,) = figure.axes
    assert axes.get_xlabel() == "contribution to validation loss (positive helps)"
    assert axes.get_title(loc="left") == "lowest −5, highest +3"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["other samples", "flipped labels"]
    counts = [patch.get_data().values.sum() for patch in axes.patches]
    assert counts == [4, 4, 2, 2]  # filled and outlined


@settings(max_examples=30)
@given(
    arrays(
        np.float64,
        st.integers(1, 40),
        elements=st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda x: x * abs(x)),
    )
)
def test_the_histogram_includes_the_extremes_on_any_axis(values: np.ndarray) -> None:
    (axes,) = contribution_histogram(values, query="q").axes
    assert axes.patches[0].get_data().values.sum() == len(values)


def test_heavy_tails_get_an_axis_that_shows_the_middle() -> None:
    values = np.concatenate([np.linspace(-1e-4, 1e-4, 100), [5.0, -3.0]])
    (axes,) = contribution_histogram(values, query="q").axes
    assert axes.get_xscale() == "asinh"
    assert (axes.patches[0].get_data().values > 0).sum() > 5
    assert contribution_histogram(np.linspace(-1, 1, 100), query="q").axes[0].get_xscale() == "linear"


def test_query_names_are_shown_without_interpretation() -> None:
    figure = contribution_histogram([1.0, 2.0], query=r"cost in $ per $\frac{")
    to_svg(figure)
    assert "per" in figure.axes[0].get_xlabel()


def test_long_query_names_are_cut() -> None:
    label = contribution_histogram([1.0, 2.0], query="word " * 60).axes[0].get_xlabel()
    assert label.endswith("…\n(positive helps)")
    assert max(map(len, label.splitlines())) <= 52


def test_the_found_curve_is_drawn_with_the_curve_of_chance() -> None:
    (axes,) = found_curve([1.0, 0, 0.8], [1.0, 0, 0.5]).axes
    measured, chance = axes.lines
    np.testing.assert_array_equal(measured.get_ydata(), [0, 0.8, 1])
    np.testing.assert_array_equal(chance.get_ydata(), [0, 0.5, 1])
    assert "inspected" in axes.get_xlabel() and "found" in axes.get_ylabel()
    other = found_curve([0, 1], [0, 1], chance=[0, 0.9]).axes[0].lines[1]
    np.testing.assert_array_equal(other.get_ydata(), [0, 0.9])


def test_the_check_shows_slope_correlations_and_unit() -> None:
    figure = predicted_against_actual([1, 2, 3, 4], [0.5, 1.0, 1.5, 2.0], unit="nats")
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "slope 0.5, Spearman 1, Pearson 1, n = 4"
    assert axes.get_xlabel() == "predicted change (nats)"
    assert axes.get_legend().get_texts()[0].get_text() == "predicted = actual"


def test_agreement_matches_its_definitions() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=50).round(1)
    y = (0.3 * x + rng.normal(size=50)).round(1)
    scipy_stats = pytest.importorskip("scipy.stats")
    measures = agreement(x * 1e-9, y * 1e-9)
    assert measures.count == 50
    np.testing.assert_allclose(measures.slope, np.polyfit(x, y, 1)[0], rtol=1e-9)
    np.testing.assert_allclose(measures.pearson, scipy_stats.pearsonr(x, y).statistic, rtol=1e-9)
    np.testing.assert_allclose(measures.spearman, scipy_stats.spearmanr(x, y).statistic, rtol=1e-9)


@pytest.mark.parametrize(("x", "y"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [0, 0, 0])])
def test_agreement_is_undefined_for_few_or_constant_values(x: list[float], y: list[float]) -> None:
    assert np.isnan(agreement(x, y).spearman)
    assert "slope –" in predicted_against_actual(x, y, unit="u").axes[0].get_title(loc="left")


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: contribution_histogram([], query="q"), "must be a list of numbers"),
        (lambda: contribution_histogram([[1.0]], query="q"), r"got shape \(1, 1\)"),
        (
            lambda: contribution_histogram([1, np.nan, np.inf], query="q"),
            "contributions must be finite; 2 of 3 are NaN",
        ),
        (lambda: contribution_histogram([1, 2], marked=[True], query="q"), "same length, got 2 and 1"),
        (lambda: found_curve([0, 1], [0, 50]), "fractions between 0 and 1, got 0 to 50"),
        (lambda: found_curve([0, 1], [0]), "must have the same length"),
        (lambda: predicted_against_actual([1, 2], [1], unit="u"), "must have the same length"),
        (lambda: picture_grid([], [], 3), "at least one picture"),
        (lambda: picture_grid([PICTURE], ["a", "b"], 3), "one caption per picture"),
        (lambda: picture_grid([PICTURE / 255], ["a"], 3), "A picture must be uint8"),
    ],
)
def test_values_that_a_figure_cannot_show_are_refused(draw: Callable[[], object], message: str) -> None:
    with pytest.raises(PresentationError, match=message) as caught:
        draw()
    assert isinstance(caught.value, HydragradError) and isinstance(caught.value, ValueError)
