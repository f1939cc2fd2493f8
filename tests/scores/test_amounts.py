"""How contributions are shown: calibrated where groups were left out, as derivatives, or as shares."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hydragrad.scores import Check, Evidence, Method, Scores, amounts_of, calibrate, calibration_of

SIZES = (2, 4, 8, 16, 3, 9)
PREDICTED = (0.1, -0.2, 0.4, 0.3, -0.5, 0.05)


def scores(evidence: Evidence, values=(0.5, -1.5, 2.0), value: float = 1.0) -> Scores:
    return Scores(
        values=torch.tensor([values], dtype=torch.float64),
        sample_ids=torch.arange(len(values)),
        query_names=("loss",),
        query_values=torch.tensor([value], dtype=torch.float64),
        evidence=evidence,
    )


def test_contributions_without_a_measured_scale_are_shares():
    amounts = amounts_of(scores(Evidence()))
    assert amounts.kind == "share" and amounts.factor == 25
    assert amounts.text(-1.5) == "-37.5 %" and amounts.text(2.0, 0.1) == "+50 % ± 2 %"
    assert "in percent of the sum of all sizes" in amounts.meaning
    assert amounts_of(scores(Evidence(), values=(0.0, 0.0))).factor == 0
    assert amounts_of(scores(Evidence(), values=(1.0, math.nan, -3.0))).text(1.0) == "+25 %"


def test_derivatives_are_shown_as_they_are_unless_they_are_implausible():
    exact = Evidence(method=Method.of("hessian"))
    amounts = amounts_of(scores(exact))
    assert (
        amounts.kind == "derivative" and amounts.text(-1.5) == "-1.5" and amounts.meaning.endswith("unit of the query)")
    )
    assert amounts_of(scores(exact, values=(0.5, -11.5))).kind == "share", "eleven times the loss itself"
    assert amounts_of(scores(Evidence(method=Method.of("ggn"), route="influence"))).kind == "share"


def test_a_scale_that_was_measured_is_in_the_numbers():
    actual = tuple(0.5 * p - 0.001 * n for p, n in zip(PREDICTED, SIZES, strict=True))
    check = Check(unit="loss", curvature="none", predicted=PREDICTED, actual=actual, group_sizes=SIZES)
    amounts = amounts_of(scores(Evidence(checks=(check,))))
    assert amounts.kind == "calibrated" and amounts.factor == pytest.approx(0.5) and amounts.text(2.0) == "+1"
    assert amounts.calibration.per_sample == pytest.approx(-0.001) and amounts.calibration.most == 16
    assert "really leaving 6 groups out" in amounts.meaning
    other = Check(unit="another loss", curvature="none", predicted=PREDICTED, actual=actual)
    assert calibration_of(Evidence(checks=(other,)), "loss") is None, "of another query"
    curved = Check(unit="loss", curvature="ggn", predicted=PREDICTED, actual=actual)
    assert calibration_of(Evidence(checks=(curved,)), "loss") is None, "of another curvature"
    over_the_rest = replace(check, removal="renormalised")
    assert calibration_of(Evidence(checks=(over_the_rest,)), "loss") is None, "of another kind of removal"


def test_predictions_that_say_nothing_of_sizes_have_no_scale():
    assert calibrate(PREDICTED, [-value for value in PREDICTED]) is None
    assert calibrate(PREDICTED[:4], PREDICTED[:4]) is None, "four groups are too few"
    assert calibrate([0.0] * 6, PREDICTED) is None
    assert calibrate(PREDICTED, (0.3, 0.2, -0.4, 0.1, 0.3, -0.2)) is None


def test_groups_of_one_size_with_equal_predictions_have_no_second_term():
    calibration = calibrate([0.5] * 6, [0.4, 0.6, 0.5, 0.5, 0.45, 0.55], [3] * 6)
    assert calibration.per_sample == 0 and calibration.scale == pytest.approx(1)


@given(scale=st.floats(0.2, 5), per_sample=st.floats(-0.1, 0.1), unit=st.sampled_from([1e-100, 1e-6, 1.0, 1e6]))
def test_an_exact_relation_is_recovered_at_any_size(scale, per_sample, unit):
    predicted = unit * np.array(PREDICTED)
    actual = scale * predicted + unit * per_sample * np.array(SIZES)
    calibration = calibrate(predicted, actual, SIZES)
    assert calibration.scale == pytest.approx(scale) and calibration.high - calibration.low < 1e-6
    change, low, high = calibration.change(unit * 0.7, 11)
    assert change == pytest.approx(unit * (scale * 0.7 + per_sample * 11))
    assert low <= change <= high


def test_nine_of_ten_changes_lie_in_the_interval():
    random = np.random.RandomState(0)
    inside = []
    for _ in range(400):
        predicted, sizes = random.randn(9), random.randint(1, 30, 9)
        actual = 1.7 * predicted - 0.02 * sizes + 0.3 * random.randn(9)
        calibration = calibrate(predicted[:8], actual[:8], sizes[:8])
        if calibration is not None:
            _, low, high = calibration.change(predicted[8], int(sizes[8]))
            inside.append(low <= actual[8] <= high)
    assert len(inside) > 380 and 0.86 < np.mean(inside) < 0.94
