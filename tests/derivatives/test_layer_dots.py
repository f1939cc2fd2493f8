"""Every layer's rule against autograd, sample by sample."""

import pytest
import torch
from torch import nn

from hydragrad.derivatives import LayerDots, why_not_hooks

BATCH, QUERIES, VOCABULARY = 4, 3, 5
LAYERS = {
    "linear": (lambda: nn.Linear(3, 5), (3,)),
    "linear, more dimensions": (lambda: nn.Linear(3, 5), (2, 4, 3)),
    "linear, no bias": (lambda: nn.Linear(3, 5, bias=False), (2, 3)),
    "conv1d, circular": (lambda: nn.Conv1d(2, 4, 3, padding=2, padding_mode="circular"), (2, 7)),
    "conv2d, groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, stride=2, padding=1), (4, 7, 6)),
    "conv2d, depthwise, dilated": (lambda: nn.Conv2d(3, 6, 2, groups=3, dilation=2), (3, 6, 5)),
    "conv2d, reflect": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 5, 5)),
    "conv2d, same": (lambda: nn.Conv2d(2, 3, (2, 3), padding="same", bias=False), (2, 4, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 2, groups=2, padding=(1, 0, 1)), (2, 3, 3, 2)),
    "embedding": (lambda: nn.Embedding(VOCABULARY, 3), None),
    "embedding, padding": (lambda: nn.Embedding(VOCABULARY, 3, padding_idx=1), None),
    "layer norm": (lambda: nn.LayerNorm(3), (5, 3)),
    "layer norm, two dimensions": (lambda: nn.LayerNorm((2, 3), eps=0.1), (4, 2, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rule_is_autograd_sample_by_sample(name, generator):
    build, shape = LAYERS[name]
    torch.manual_seed(1)
    model = nn.Sequential(build()).double()
    if shape is None:
        x = torch.randint(VOCABULARY, (BATCH, 6), generator=generator)
    else:
        x = torch.randn(BATCH, *shape, generator=generator, dtype=torch.float64)
    named = dict(model.named_parameters())
    directions = {n: torch.randn(QUERIES, *p.shape, generator=generator, dtype=torch.float64) for n, p in named.items()}
    lanes = {n: number for number, n in enumerate(named)}

    dots = LayerDots(model, directions, lanes)
    dots.begin(BATCH, directions[next(iter(named))])
    model(x).square().sum().backward()
    dots.remove()

    for sample in range(BATCH):
        gradients = torch.autograd.grad(model(x[sample : sample + 1]).square().sum(), list(named.values()))
        for n, gradient in zip(named, gradients, strict=True):
            expected = directions[n].flatten(1) @ gradient.flatten()
            torch.testing.assert_close(dots.totals[lanes[n], :, sample], expected, rtol=1e-11, atol=1e-11)
    assert why_not_hooks(model) is None


def test_what_has_no_rule_is_named():
    assert "couples the samples" in str(why_not_hooks(nn.Sequential(nn.BatchNorm1d(3))))
    assert "0 (Bilinear)" in str(why_not_hooks(nn.Sequential(nn.Bilinear(2, 2, 2))))
    subclass = type("Other", (nn.Linear,), {})
    assert "(Other)" in str(why_not_hooks(subclass(2, 2)))
