"""Derivatives under every label, and what is no plain cross-entropy."""

import pytest
import torch
import torch.nn.functional as F

from hydragrad.derivatives import label_derivatives, require_cross_entropy
from hydragrad.derivatives.directional.forward_mode import Directional
from hydragrad.errors import LossError


def along(losses=None) -> tuple[Directional, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    output_dot = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 2, 1, 1])
    losses = F.cross_entropy(output, labels, reduction="none") if losses is None else losses(output, labels)
    return Directional(losses, torch.zeros(2, 4), output, output_dot), labels


def test_each_label_is_its_own_cross_entropy():
    given, _ = along()
    found = label_derivatives(given)
    assert found.shape == (2, 4, 3)
    for label in range(3):
        expected = [
            torch.func.jvp(
                lambda z, k=label: F.cross_entropy(z, torch.full((4,), k), reduction="none"), (given.output,), (dot,)
            )[1]
            for dot in given.output_dot
        ]
        torch.testing.assert_close(found[..., label], torch.stack(expected), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: (torch.ones(4, 2), y),
        lambda y: {"a": [torch.zeros(4).long()], "y": y.int()},
        lambda y: [y.double()[:, None]],
        lambda y: [F.one_hot(y, 3).float()],
    ],
)
def test_plain_cross_entropy_is_recognised(wrap):
    given, labels = along()
    require_cross_entropy(given, wrap(labels))


@pytest.mark.parametrize(
    "losses",
    [
        lambda z, y: F.cross_entropy(z, y, reduction="none", label_smoothing=0.1),
        lambda z, y: F.cross_entropy(z, y, reduction="none", weight=torch.tensor([1.0, 2.0, 3.0]).double()),
        lambda z, y: F.cross_entropy(2 * z, y, reduction="none"),
        lambda z, y: F.multi_margin_loss(z, y, reduction="none"),
    ],
)
def test_other_losses_are_refused(losses):
    given, labels = along(losses)
    with pytest.raises(LossError, match="plain cross-entropy"):
        require_cross_entropy(given, (labels,))


def test_labels_that_are_not_in_the_batch_are_refused():
    given, labels = along()
    for data in ((labels + 0.5,), (labels[:3],), (labels + 2,), [], (labels.roll(1),)):
        with pytest.raises(LossError, match="integer labels from the batch"):
            require_cross_entropy(given, data)
    with pytest.raises(LossError, match=r"shape \(4, 3, 1\)"):
        require_cross_entropy(given._replace(output=given.output.unsqueeze(-1)), (labels,))
