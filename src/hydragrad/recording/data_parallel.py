"""Training by several processes with DistributedDataParallel: each records its own part, without a word to the others.

What a rank knows of itself is read off the DistributedDataParallel: its number, how many there are, whether a forward
pass went through it, and what it does with buffers. Nothing here communicates.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hydragrad.errors import Unsupported
from hydragrad.randomness import stream_seed

_alone: ContextVar[bool] = ContextVar("alone", default=False)

RANK = "rank"
"""Stream of the seeds of ranks."""


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is.

    Attributes:
        model: The model that all train, as each has it.
        wrapper: The DistributedDataParallel around it; None where one process trains.
        rank: Of this process.
        count: How many there are.
    """

    model: nn.Module
    wrapper: DistributedDataParallel | None = None
    rank: int = 0
    count: int = 1

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    @property
    def named(self) -> dict[str, int]:
        """Entries of the manifest."""
        return {"processes": self.count, "rank": self.rank}

    def own_seed(self, seed: int) -> int:
        """What the seeds of this rank's steps are derived from; all ranks may have been given the same."""
        return stream_seed(seed, self.rank, RANK) if self.rank else seed


def processes_of(model: nn.Module) -> Processes:
    """Read which process this is off a model.

    Raises:
        Unsupported: Several processes train together otherwise than by DistributedDataParallel, or it does more than
            average the gradients.
    """
    if isinstance(model, DistributedDataParallel):
        bare: nn.Module = model.module
        if isinstance(bare, DistributedDataParallel):
            raise Unsupported("DistributedDataParallel must be around the model once; here it is around it twice.")
        group = model.process_group
        processes = Processes(bare, model, group.rank(), group.size())
        if processes.several:
            require_plain(model, bare)
            return processes
        return Processes(bare)
    together = torch.distributed.is_available() and torch.distributed.is_initialized() and not _alone.get()
    if together and torch.distributed.get_world_size() > 1:
        raise Unsupported(
            f"{torch.distributed.get_world_size()} processes train together here (torch.distributed is initialised), "
            f"and what is recorded of them is DistributedDataParallel; this model is a {type(model).__name__}. Pass "
            f"the DistributedDataParallel itself. Pipeline and tensor parallelism, and averages of gradients by hand, "
            f"are not recorded; for a run of its own in every process, record before init_process_group()."
        )
    return Processes(model)


def require_one_process(model: nn.Module, what: str, remedy: str) -> None:
    """Refuse what is for the training of one process.

    Raises:
        Unsupported: Several train together.
    """
    processes = processes_of(model)
    if processes.several:
        raise Unsupported(
            f"{what} is for the training of one process, and {processes.count} train this model together. {remedy}"
        )


def of_a_launcher() -> str:
    """What to say where a launcher (torchrun) started several processes, each recorded as if it were alone."""
    count, rank = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
    if count == "1" or (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return ""
    return (
        f" This is process {rank} of {count} that a launcher started: give each a folder of its own, or have all train "
        f"one model with DistributedDataParallel, and pass that."
    )


@contextmanager
def in_one_process() -> Iterator[None]:
    """Record inside the block as one process does, whatever trains around it."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def require_plain(wrapper: DistributedDataParallel, model: nn.Module) -> None:
    """Refuse a DistributedDataParallel that does more than average the gradients.

    Raises:
        Unsupported: Names what it has.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    refused = {
        "SyncBatchNorm, which couples the samples of all ranks (leave out convert_sync_batchnorm; BatchNorm, GroupNorm "
        "and LayerNorm are recorded)": any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()),
        "broadcast_buffers=False with buffers (each rank would train with its own; leave it True)": (
            not wrapper.broadcast_buffers and any(True for _ in model.buffers())
        ),
        "a communication hook, which changes the averaged gradients (register none)": bool(hooks_of(wrapper)),
        "mixed_precision (use torch.autocast around the losses)": wrapper.mixed_precision is not None,
        "parameters that it ignores (_ddp_params_and_buffers_to_ignore)": bool(trained & wrapper.parameters_to_ignore),
        "delay_all_reduce_named_params": bool(wrapper._delay_all_reduce_params),
    }
    named = [name for name, present in refused.items() if present]
    if named:
        raise Unsupported(
            f"DistributedDataParallel is recorded where it averages the gradients of all ranks and nothing else; this "
            f"one has {' and '.join(named)}. Train without that."
        )


def hooks_of(wrapper: DistributedDataParallel) -> list[Any]:
    """Its communication hooks."""
    return [*getattr(wrapper, "_comm_hooks", ())]
