"""BatchNorm as a formula computes what torch's kernel computes, running statistics included."""

import copy

import pytest
import torch
from torch import nn

from hydragrad.derivatives import running_statistics, use_explicit_batch_norm
from hydragrad.derivatives.torch_gaps.batch_norm import batch_coupled

SHAPES = {
    nn.BatchNorm1d: [(6, 3), (6, 3, 4), (2, 3)],
    nn.BatchNorm2d: [(4, 3, 2, 5)],
    nn.BatchNorm3d: [(3, 3, 2, 2, 2)],
}
OPTIONS = [
    {},
    {"momentum": 0.4, "eps": 0.1},
    {"momentum": None},
    {"affine": False},
    {"track_running_stats": False},
    {"momentum": None, "affine": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.__name__)
def test_formula_and_kernel_agree(kind, options):
    torch.manual_seed(0)
    layer = kind(3, **options).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    explicit = copy.deepcopy(layer)
    use_explicit_batch_norm(explicit)
    for shape in SHAPES[kind]:
        for training in (True, True, False):
            x = 2 * torch.randn(shape, dtype=torch.float64) + 1
            layer.train(training)
            explicit.train(training)
            torch.testing.assert_close(explicit(x), layer(x), rtol=1e-12, atol=1e-12)
            mine, native = dict(explicit.named_buffers()), dict(layer.named_buffers())
            assert mine.keys() == native.keys()
            for name, value in native.items():
                torch.testing.assert_close(mine[name], value, rtol=1e-12, atol=1e-12)
    if layer.track_running_stats:
        assert layer.num_batches_tracked == 2 * len(SHAPES[kind])


def test_formula_is_differentiable_in_the_statistics():
    layer = nn.BatchNorm1d(3).double().eval()
    use_explicit_batch_norm(layer)
    x = torch.randn(4, 3, dtype=torch.float64)
    variance = torch.rand(3, dtype=torch.float64) + 0.5

    def output(mean, var):
        return torch.func.functional_call(layer, {"running_mean": mean, "running_var": var}, (x,))

    mean = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(output, (mean, variance.requires_grad_()))


def test_only_statistics_that_carry_a_derivative_are_named():
    model = nn.Sequential(
        nn.Linear(3, 3),
        nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)),
        nn.InstanceNorm1d(3, track_running_stats=True),
    )
    assert running_statistics(model) == {"1.0.running_mean", "1.0.running_var"}
    assert running_statistics(nn.BatchNorm1d(3)) == {"running_mean", "running_var"}
    shared = nn.BatchNorm1d(3)
    named = {name for name, _ in nn.Sequential(shared, shared).named_buffers()}
    assert running_statistics(nn.Sequential(shared, shared)) == named - {"0.num_batches_tracked"}


def test_samples_are_coupled_in_training_mode_only():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    assert batch_coupled(model)
    assert not batch_coupled(model.eval())
    assert not batch_coupled(nn.LayerNorm(3))
