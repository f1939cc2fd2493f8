"""The explicit BatchNorm against torch's own."""

import copy

import pytest
import torch
from torch import nn

from hydragrad.derivatives import running_statistics, use_explicit_batch_norm

LAYERS = {
    "1d": (lambda: nn.BatchNorm1d(3), (6, 3)),
    "1d, sequences": (lambda: nn.BatchNorm1d(3, momentum=0.4, eps=0.2), (4, 3, 5)),
    "2d, plain average": (lambda: nn.BatchNorm2d(3, momentum=None, affine=False), (4, 3, 2, 5)),
    "3d, untracked": (lambda: nn.BatchNorm3d(3, track_running_stats=False), (2, 3, 2, 2, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_it_computes_what_torch_computes(name, generator):
    build, shape = LAYERS[name]
    native = nn.Sequential(build()).double()
    for parameter in native.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    explicit = copy.deepcopy(native)
    use_explicit_batch_norm(explicit)
    for training in (True, True, False, True):
        x = torch.randn(*shape, generator=generator, dtype=torch.float64) + 1
        outputs = [model.train(training)(x) for model in (native, explicit)]
        torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
    for key, value in native.named_buffers():
        torch.testing.assert_close(dict(explicit.named_buffers())[key], value, rtol=1e-12, atol=1e-12)
    tracked = {"0.running_mean", "0.running_var"} if "untracked" not in name else set()
    assert running_statistics(native) == tracked
