"""A step of all parameters at once is the step of each."""

import torch

from hydragrad.steps import Cotangent, Move, Part, StepPoint, Tangent, smoothing_of, tangent_all, transpose_all
from hydragrad.steps.adam import ADAM, AdamOptions
from hydragrad.steps.sgd import RULE, SGDOptions

SIZE = 9
ADAM_MOVE, AMSGRAD = Move(AdamOptions(lr=0.1), 3), Move(AdamOptions(lr=0.1, amsgrad=True), 2)
SGD_MOVE = Move(SGDOptions(lr=0.1, momentum=0.9), False)
PARTS = [
    Part(slice(0, 3), ADAM, ADAM_MOVE),
    Part(slice(3, 5), ADAM, AMSGRAD),
    Part(slice(6, 9), RULE, SGD_MOVE),
]


def tensors(count: int, *lead: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(count)
    return tuple(torch.randn(count, *lead, SIZE, generator=generator, dtype=torch.float64))


def point() -> StepPoint:
    w, m, v, x, g = tensors(5)
    return StepPoint(w, (m, v.square(), x.square()), g)


def test_parts_move_by_their_own_rules_and_what_was_skipped_stays():
    here = point()
    w_dot, a, b, c, g_dot = tensors(5, 2)
    after = tangent_all(PARTS, Tangent(w_dot, (a, b, c)), g_dot, here, 0.0)
    amsgrad = slice(3, 5)
    expected = ADAM.tangent(
        Tangent(w_dot[:, amsgrad], (a[:, amsgrad], b[:, amsgrad], c[:, amsgrad])),
        g_dot[:, amsgrad],
        AMSGRAD,
        Part(amsgrad, ADAM, AMSGRAD).at(here),
    )
    assert torch.equal(after.w_dot[:, amsgrad], expected.w_dot)
    assert torch.equal(after.states[2][:, amsgrad], expected.states[2])
    # Plain Adam has no third state and SGD one only; coordinate 5 was skipped.
    assert torch.equal(after.states[2][:, :3], c[:, :3]) and torch.equal(after.states[1][:, 6:], b[:, 6:])
    assert torch.equal(after.w_dot[:, 5], w_dot[:, 5])


def test_the_transpose_is_that_of_the_tangent():
    here = point()
    w_dot, a, b, c, g_dot, w_bar, d, e, f = tensors(9)
    after = tangent_all(PARTS, Tangent(w_dot, (a, b, c)), g_dot, here, 0.02)
    g_bar, before = transpose_all(PARTS, Cotangent(w_bar, (d, e, f)), here, 0.02)
    left = w_bar @ after.w_dot + sum(x @ y for x, y in zip((d, e, f), after.states, strict=True))
    right = g_bar @ g_dot + before.w_bar @ w_dot + sum(x @ y for x, y in zip(before.states, (a, b, c), strict=True))
    torch.testing.assert_close(right, left, rtol=1e-12, atol=1e-12)
    assert (g_bar[5] == 0).all()


def test_one_part_that_is_everything_is_not_copied_about():
    part = [Part(slice(0, SIZE), RULE, SGD_MOVE)]
    w_bar, b_bar = tensors(2, 2)
    g_bar, before = transpose_all(part, Cotangent(w_bar, (b_bar,)), None, 0.0)
    expected, same = RULE.transpose(Cotangent(w_bar, (b_bar,)), SGD_MOVE)
    assert torch.equal(g_bar, expected) and torch.equal(before.states[0], same.states[0])


def test_smoothing_is_a_share_of_the_mean_second_moment_of_all_coordinates_that_have_one():
    here = point()
    moments = torch.cat([ADAM.second_moment(part.at(here), part.move) for part in PARTS[:2]])
    torch.testing.assert_close(smoothing_of(PARTS, here, 0.01), 0.01 * moments.mean().item(), rtol=1e-14, atol=0)
    assert smoothing_of(PARTS, here, 0.0) == 0.0 == smoothing_of(PARTS, None, 0.01)
    assert smoothing_of(PARTS[2:], here, 0.01) == 0.0
