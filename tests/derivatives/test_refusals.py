"""Models without a derivative worth having are refused."""

import pytest
import torch
from torch import nn

from hydragrad.derivatives import require_differentiable
from hydragrad.errors import Unsupported


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.ReLU(), "no parameters"),
        (nn.Linear(2, 2).half(), "torch.float16"),
        (nn.Linear(2, 2).bfloat16(), "torch.bfloat16"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), "torch.float32, torch.float64"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta")), "one device"),
        (nn.Sequential(nn.Embedding(3, 2, sparse=True)), "0 .Embedding. has sparse"),
        (nn.Sequential(nn.Embedding(3, 2, scale_grad_by_freq=True)), "scale_grad_by_freq"),
        (nn.Sequential(nn.EmbeddingBag(3, 2, max_norm=1.0)), "max_norm"),
    ],
)
def test_refusals_say_why(model, message):
    with pytest.raises(Unsupported, match=message):
        require_differentiable(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_precision_is_fine(dtype):
    require_differentiable(nn.Sequential(nn.Embedding(3, 2, padding_idx=0), nn.Linear(2, 2)).to(dtype))


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*:DeprecationWarning", "ignore:Lazy modules are a new feature:UserWarning"
)
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: nn.Sequential(nn.LazyLinear(2)),
            r"0\.weight is made by the first forward pass .* Run",
        ),
        (lambda: torch.jit.script(nn.Linear(2, 2)), r"it is TorchScript .* Train the module that it was made from"),
        (lambda: nn.Sequential(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))), "and 0 is TorchScript"),
    ],
)
def test_models_that_can_not_be_replayed_are_named(build, message):
    with pytest.raises(Unsupported, match=message):
        require_differentiable(build())


@pytest.mark.parametrize("build", [lambda: nn.Linear(2, 2), lambda: nn.BatchNorm1d(2, affine=False)])
def test_tensors_of_inference_mode_are_refused(build):
    with torch.inference_mode():
        made = build()
    model = nn.Sequential(nn.Linear(2, 2), made)
    with pytest.raises(Unsupported, match=r"1\.\w+ was made under torch\.inference_mode\(\).* Build or load the model"):
        require_differentiable(model)
