"""Transforms of gradients against torch's own functions, their tangents against differences, and the transposes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hydragrad.steps import tangent_transforms, transpose_transforms
from hydragrad.steps.transforms import ClipNorm, ClipValue, Scale, from_plain, to_plain

SPANS = {"a": slice(0, 3), "b": slice(3, 8)}
NAMES = ("a", "b")
TRANSFORMS = [
    ClipNorm(names=NAMES, max_norm=0.5),
    ClipNorm(names=NAMES, max_norm=100.0),
    ClipNorm(names=("b",), max_norm=0.5),
    ClipNorm(names=NAMES, max_norm=0.5, norm_type=1.0),
    ClipNorm(names=NAMES, max_norm=0.5, norm_type=3.0),
    ClipNorm(names=NAMES, max_norm=0.5, norm_type=math.inf),
    ClipValue(names=NAMES, limit=0.4),
    Scale(names=("a",), factor=-0.3),
]


def gradients(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def applied(transform, flat: torch.Tensor) -> torch.Tensor:
    """What torch makes of the gradients of two parameters, flat."""
    parameters = {name: nn.Parameter(torch.zeros(span.stop - span.start).double()) for name, span in SPANS.items()}
    for name, span in SPANS.items():
        parameters[name].grad = flat[span].clone()
    transform.apply([parameters[name] for name in transform.names])
    return torch.cat([parameter.grad for parameter in parameters.values()])


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_tangent_is_that_of_torch(transform):
    g, g_dot = gradients(0), gradients(1)
    h = 1e-6
    expected = (applied(transform, g + h * g_dot) - applied(transform, g - h * g_dot)) / (2 * h)
    tangent = tangent_transforms([transform], SPANS, g_dot, [g])
    torch.testing.assert_close(tangent, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("transform", TRANSFORMS)
@given(seed=st.integers(0, 20))
def test_the_transpose_is_that_of_the_tangent(transform, seed):
    g, g_dot, g_bar = gradients(seed), gradients(seed + 1, 2), gradients(seed + 2, 2)
    forward = tangent_transforms([transform], SPANS, g_dot, [g])
    backward = transpose_transforms([transform], SPANS, g_bar, [g])
    torch.testing.assert_close((g_bar * forward).sum(1), (backward * g_dot).sum(1), rtol=1e-10, atol=1e-12)


def test_several_transforms_compose_in_order():
    first, second = ClipNorm(names=NAMES, max_norm=0.5), ClipValue(names=("b",), limit=0.1)
    g, g_dot, g_bar = gradients(3), gradients(4), gradients(5)
    between = applied(first, g)
    h = 1e-6
    ends = [applied(second, applied(first, g + sign * h * g_dot)) for sign in (1, -1)]
    tangent = tangent_transforms([first, second], SPANS, g_dot, [g, between])
    torch.testing.assert_close(tangent, (ends[0] - ends[1]) / (2 * h), rtol=1e-7, atol=1e-8)
    back = transpose_transforms([first, second], SPANS, g_bar, [g, between])
    torch.testing.assert_close(g_bar @ tangent, back @ g_dot, rtol=1e-10, atol=1e-12)


def test_the_arguments_are_left_alone():
    g, g_bar = gradients(0), gradients(1)
    before = g_bar.clone()
    transpose_transforms(TRANSFORMS[:1], SPANS, g_bar, [g])
    assert torch.equal(g_bar, before)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_they_come_back_from_plain_values(transform):
    assert from_plain(to_plain(transform)) == transform
