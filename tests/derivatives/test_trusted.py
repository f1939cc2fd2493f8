"""A fast path is taken where it agrees with the safe one, and only there."""

import pytest
import torch

from hydragrad.derivatives import HooksInapplicable, agrees, compare_with_safe, tolerance_of
from hydragrad.errors import LossError

SAFE = torch.tensor([3.0, -4.0], dtype=torch.float64)  # of norm 5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-3)])
def test_the_tolerance_is_relative_to_the_norm_and_follows_the_precision(dtype, tolerance):
    safe = SAFE.to(dtype)
    aside = torch.tensor([5.0, 0.0], dtype=dtype) * tolerance
    assert tolerance_of(dtype) == tolerance
    assert agrees(safe + 0.9 * aside, safe) and not agrees(safe + 1.2 * aside, safe)
    assert agrees(1e-6 * (safe + 0.9 * aside), 1e-6 * safe) and not agrees(1e-6 * (safe + 1.2 * aside), 1e-6 * safe)


def test_the_coarsest_precision_gives_the_tolerance():
    assert tolerance_of(torch.float64, torch.float32) == tolerance_of(torch.float32)
    assert tolerance_of(torch.float64, torch.float64) == tolerance_of(torch.float64)
    assert tolerance_of(torch.bfloat16) == tolerance_of(torch.float32)


def test_a_tolerance_of_its_own():
    assert not agrees(1.01 * SAFE, SAFE) and agrees(1.01 * SAFE, SAFE, tolerance=0.02)


def test_zeros_agree_with_zeros_alone_and_nan_with_nothing():
    zero, nan = torch.zeros(2), torch.full((2,), torch.nan)
    assert agrees(zero, zero) and agrees(torch.zeros(2, 0), torch.zeros(2, 0))
    assert not agrees(zero + 1e-10, zero)
    assert not agrees(nan, zero) and not agrees(zero, nan) and not agrees(nan, nan)


def test_every_tensor_must_agree():
    trusted = compare_with_safe(lambda: [SAFE, SAFE[:0], 2 * SAFE], [SAFE, SAFE[:0], 2 * SAFE])
    assert trusted.trusted and trusted.why_not is None
    assert torch.equal(trusted.values[2], 2 * SAFE)
    wrong = compare_with_safe(lambda: [SAFE, SAFE[:0], 2.2 * SAFE], [SAFE, SAFE[:0], 2 * SAFE])
    assert not wrong.trusted and wrong.why_not == "it differs from the safe path by up to 1.0e-01 of its size"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("no batching rule\nfor this"), "no batching rule"),
        (NotImplementedError(), "NotImplementedError"),
        (ValueError("another shape"), "another shape"),
        (LossError("another loss"), "another loss"),
        (HooksInapplicable("Linear does not see one row a sample"), "Linear does not see one row a sample"),
    ],
)
def test_what_is_not_for_this_model_leaves_a_reason(error, reason):
    def fast():
        raise error

    comparison = compare_with_safe(fast, [SAFE])
    assert not comparison.trusted and comparison.why_not == reason and comparison.values == ()


@pytest.mark.parametrize("error", [KeyError("bug"), TypeError("bug"), AssertionError("bug"), KeyboardInterrupt()])
def test_other_errors_are_raised(error):
    def fast():
        raise error

    with pytest.raises(type(error)):
        compare_with_safe(fast, [SAFE])
