"""Models that several processes or devices train together: DistributedDataParallel is taken off, others are refused.

Classes are known by where they come from, so that nothing is imported.
"""

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hydragrad.errors import Unsupported

SHARDED = {
    ("torch.distributed", "FullyShardedDataParallel"): "FSDP (FullyShardedDataParallel)",
    ("torch.distributed", "FSDPModule"): "FSDP2 (fully_shard)",
    ("deepspeed", ""): "DeepSpeed",
    ("torch.distributed.pipelining", ""): "pipeline parallelism",
    ("fairscale", ""): "FairScale",
    ("megatron", ""): "Megatron",
    ("colossalai", ""): "Colossal-AI",
}
"""What spreads a model over processes, by the start of a class's module and its name (any where that is empty)."""

REMEDY = (
    "Train with DistributedDataParallel, which can be recorded. Where the weights do not fit on one device, gather "
    "full checkpoints and ask hg.influence(hg.Checkpoints(...), query), which replays nothing."
)


def bare_model(model: nn.Module) -> nn.Module:
    """The module inside of DistributedDataParallel; any other as it is."""
    return bare_model(model.module) if isinstance(model, DistributedDataParallel) else model


def require_whole(model: nn.Module) -> None:
    """Refuse a model of which this process, or one device of it, holds a part.

    Raises:
        Unsupported: FSDP, DeepSpeed, pipeline or tensor parallelism, or DataParallel over several devices.
    """
    for module in model.modules():
        kind = _kind(module)
        if kind is not None:
            raise Unsupported(
                f"A run is replayed with the whole model in one process; this one is spread over processes by {kind}. "
                f"{REMEDY}"
            )
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise Unsupported(
                f"A model is recorded as it is, or in DistributedDataParallel; this one is in nn.DataParallel over "
                f"{len(module.device_ids)} devices, whose copies draw random numbers of their own. Use "
                f"DistributedDataParallel (torchrun), or one device."
            )
    split = [
        name
        for name, parameter in model.named_parameters()
        if "DTensor" in (type(parameter).__name__, type(parameter.data).__name__)
    ]
    if split:
        raise Unsupported(
            f"A run is replayed with the whole model in one process; {split[0]} is a DTensor, split over processes "
            f"(tensor parallelism, or fully_shard). {REMEDY}"
        )


def _kind(module: nn.Module) -> str | None:
    places = [(base.__module__, base.__name__) for base in type(module).__mro__]
    for (start, name), kind in SHARDED.items():
        if any(where.startswith(start) and own.startswith(name) for where, own in places):
            return kind
    return None
