"""Figures: plain arrays in, a matplotlib Figure out; no pyplot, no global settings, colour-blind safe.

Contributions  contribution_histogram
Cleaning       found_curve
Checks         predicted_against_actual, agreement
Approximation  error_over_time
Pictures       picture_grid
Embedding      to_svg
"""

from hydragrad.figures.agreement import Agreement as Agreement
from hydragrad.figures.agreement import agreement as agreement
from hydragrad.figures.checks import predicted_against_actual as predicted_against_actual
from hydragrad.figures.contributions import contribution_histogram as contribution_histogram
from hydragrad.figures.detection import found_curve as found_curve
from hydragrad.figures.embed import to_svg as to_svg
from hydragrad.figures.errors import error_over_time as error_over_time
from hydragrad.figures.pictures import picture_grid as picture_grid
