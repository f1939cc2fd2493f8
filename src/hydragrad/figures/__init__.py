"""Figures: plain arrays in, a matplotlib Figure out; no pyplot, no global settings, colour-blind safe.

contributions  contribution_histogram: how contributions are distributed
detection      found_curve: flipped labels found against samples inspected
checks         predicted_against_actual: changes of a query
agreement      slope and correlations of predicted and actual changes
errors         error_over_time: the error without curvature, with its bounds
pictures       picture_grid: pictures of samples with captions
embed          to_svg: a figure as reproducible text
style          size, type and colours of all figures
values         checks of the arrays that a figure gets
"""

from hydragrad.figures.agreement import Agreement as Agreement
from hydragrad.figures.agreement import agreement as agreement
from hydragrad.figures.checks import predicted_against_actual as predicted_against_actual
from hydragrad.figures.contributions import contribution_histogram as contribution_histogram
from hydragrad.figures.detection import found_curve as found_curve
from hydragrad.figures.embed import to_svg as to_svg
from hydragrad.figures.errors import error_over_time as error_over_time
from hydragrad.figures.pictures import picture_grid as picture_grid
