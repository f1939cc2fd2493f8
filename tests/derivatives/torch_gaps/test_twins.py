"""Formulas in the place of operations that lack derivatives, held to torch's own values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import jvp

from hydragrad.derivatives.torch_gaps.twins import Twins

G = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=G, dtype=torch.float64)


WORDS = torch.randint(6, (4, 5), generator=G)
FLAT, OFFSETS = WORDS.reshape(-1), torch.tensor([0, 3, 3, 11])
SHARES = normal(20)
TARGETS = torch.tensor([[1, 1, 2], [3, 2, 0], [2, 0, 0], [1, 2, 3]])
LENGTHS, TIMES = torch.tensor([3, 2, 1, 3]), torch.tensor([8, 7, 8, 3])


def ctc(x, **options):
    return F.ctc_loss(x.log_softmax(-1), TARGETS, TIMES, LENGTHS, **options)


CASES = {
    "silu": (F.silu, (4, 3)),
    "mish": (F.mish, (4, 3)),
    "group_norm": (lambda x: F.group_norm(x, 2, x[0, :, 0], x[1, :, 1], 1e-4), (3, 4, 5)),
    "group_norm_of_vectors": (lambda x: F.group_norm(x, 2), (3, 4)),
    "weight_norm": (lambda x: torch._weight_norm(x[:, 1:], x[:, :1], 0), (4, 5)),
    "weight_norm_of_the_other_dimension": (lambda x: torch._weight_norm(x[1:], x[:1], 1), (4, 5)),
    "cdist": (lambda x: torch.cdist(x[:3], x[3:]), (8, 4)),
    "cdist_of_absolute_values": (lambda x: torch.cdist(x[:3], x[3:], p=1.0), (8, 4)),
    "bag_mean": (lambda w: F.embedding_bag(WORDS, w), (6, 3)),
    "bag_sum": (lambda w: F.embedding_bag(WORDS, w, mode="sum", padding_idx=1), (6, 3)),
    "bag_max": (lambda w: F.embedding_bag(WORDS, w, mode="max"), (6, 3)),
    "bag_mean_padding": (lambda w: F.embedding_bag(WORDS, w, padding_idx=-2), (6, 3)),
    "bag_offsets": (lambda w: F.embedding_bag(FLAT, w, OFFSETS), (6, 3)),
    "bag_offsets_max": (lambda w: F.embedding_bag(FLAT, w, OFFSETS, mode="max", padding_idx=0), (6, 3)),
    "bag_last_offset": (
        lambda w: F.embedding_bag(FLAT, w, torch.tensor([0, 2, 9, 20]), include_last_offset=True),
        (6, 3),
    ),
    "bag_weighted": (
        lambda w: F.embedding_bag(FLAT, w, OFFSETS, mode="sum", per_sample_weights=SHARES * w.sum()),
        (6, 3),
    ),
    "ctc": (lambda x: ctc(x, reduction="none", zero_infinity=True), (8, 4, 5)),
    "ctc_mean": (lambda x: ctc(x, zero_infinity=True), (8, 4, 5)),
    "ctc_of_joined_targets": (
        lambda x: F.ctc_loss(
            x.log_softmax(-1), torch.tensor([1, 1, 2, 3, 2, 2, 1, 2, 3]), (8, 8, 8, 8), (3, 2, 1, 3), reduction="sum"
        ),
        (8, 4, 5),
    ),
    "ctc_of_one_sequence": (
        lambda x: F.ctc_loss(
            x.log_softmax(-1), torch.tensor([1, 2]), torch.tensor(8), torch.tensor(2), reduction="none"
        ),
        (8, 5),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_twins_have_the_values_and_gradients_of_torch_and_a_forward_derivative(name):
    function, shape = CASES[name]
    x = normal(*shape).requires_grad_()
    expected = function(x)
    weights = torch.linspace(1, 2, expected.numel(), dtype=torch.float64).view(expected.shape)
    (gradient,) = torch.autograd.grad((expected * weights).sum(), x)
    with Twins():
        given = function(x)
        (by_twin,) = torch.autograd.grad((given * weights).sum(), x)
        direction = normal(*shape)
        _, along = jvp(lambda x: (function(x) * weights).sum(), (x.detach(),), (direction,))
        _, curved = jvp(torch.func.grad(lambda x: (function(x) * weights).sum()), (x.detach(),), (direction,))
    torch.testing.assert_close(given, expected)
    torch.testing.assert_close(by_twin, gradient)
    torch.testing.assert_close(along, (gradient * direction).sum())
    step = 1e-6 * direction
    with Twins():
        ahead, behind = (
            torch.func.grad(lambda x: (function(x) * weights).sum())(x.detach() + sign * step) for sign in (1, -1)
        )
    torch.testing.assert_close(curved, (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-7)
