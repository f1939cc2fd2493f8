"""Models that several processes or devices train: what is taken off, and what is refused by its name."""

import pytest
import torch
from torch import nn

import hydragrad as hg
from hydragrad.derivatives import bare_model, require_differentiable
from hydragrad.derivatives.wrapped import SHARDED
from hydragrad.errors import Unsupported
from recording.toys import loss, samples


@pytest.mark.parametrize(("module", "name"), SHARDED)
def test_a_model_that_is_spread_over_processes_is_refused_by_its_name(module, name):
    kind = type(name or "Engine", (nn.Module,), {"__module__": f"{module}.somewhere"})
    model = nn.Sequential(nn.Linear(2, 2), kind())
    with pytest.raises(Unsupported) as refused:
        require_differentiable(model)
    assert SHARDED[module, name] in str(refused.value)
    assert "Train with DistributedDataParallel, which can be recorded" in str(refused.value)


def test_fully_sharded_classes_of_torch_are_known():
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    for kind in (FSDPModule, FullyShardedDataParallel):
        own = type("Own", (kind, nn.Module) if not issubclass(kind, nn.Module) else (kind,), {})
        with pytest.raises(Unsupported, match="this one is spread over processes by FSDP"):
            require_differentiable(_bare(own))


def _bare(kind):
    """An instance without the process group that its constructor wants."""
    model = object.__new__(kind)
    nn.Module.__init__(model)
    return model


def test_a_parameter_that_is_split_over_processes_is_named():
    class DTensor(torch.Tensor):
        pass

    model = nn.Linear(2, 2)
    model.weight = nn.Parameter(model.weight.detach().as_subclass(DTensor))
    with pytest.raises(Unsupported, match=r"weight is a DTensor, split over processes .tensor parallelism"):
        require_differentiable(model)


def test_data_parallel_over_several_devices_is_refused():
    model = nn.DataParallel(nn.Linear(2, 2))
    model.device_ids = [0, 1]
    with pytest.raises(Unsupported, match=r"nn.DataParallel over 2 devices, .* Use DistributedDataParallel"):
        require_differentiable(model)


def test_an_optimizer_of_which_each_process_has_a_part_is_refused(tmp_path):
    class ZeroRedundancyOptimizer(torch.optim.SGD):
        pass

    model = nn.Linear(4, 3)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), lr=0.1)
    with pytest.raises(Unsupported, match=r"of a ZeroRedundancyOptimizer each process has a part. Use"):
        hg.Recorder(tmp_path / "run", model, optimizer, loss, samples())


def test_any_other_model_is_taken_as_it_is():
    model = nn.Linear(2, 2)
    assert bare_model(model) is model
