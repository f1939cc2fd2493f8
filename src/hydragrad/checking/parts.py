"""The parts of a setup, looked at one by one before anything is recorded."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, IterableDataset

from hydragrad.checking.checked import Part
from hydragrad.checking.refused import Refusal, attempt, refusal_of
from hydragrad.checking.setup import Setup, listed
from hydragrad.checking.steps import SEED, under
from hydragrad.derivatives import (
    check_losses,
    copy_of,
    find_label,
    find_target,
    normalises_batches,
    require_differentiable,
    tensor_leaves,
)
from hydragrad.derivatives.evaluation import Evaluator
from hydragrad.errors import DataError, LossError, NonFinite, ReplayMismatch, Unsupported
from hydragrad.randomness import (
    BATCH,
    FORWARD,
    every_generator_state,
    preserved,
    reseed_everything,
    seeded,
    stream_seed,
)
from hydragrad.recording import indexed
from hydragrad.recording.batch_of_one import require_batch_of_one
from hydragrad.recording.data_parallel import processes_of
from hydragrad.replay import fetch, require_finite, require_map_style
from hydragrad.replay.data import Collate
from hydragrad.replay.fingerprints import batch_digest
from hydragrad.steps import rule_of
from hydragrad.training import batch_losses
from hydragrad.training.probe import require_labels_in_range


def model_part(model: Any) -> Part:
    """Whether the model can be differentiated at all."""

    def look() -> str:
        if not isinstance(model, nn.Module):
            raise DataError(f"The model must be a torch.nn.Module, got a {_kind(model)}. Pass the model to be trained.")
        require_differentiable(model)
        parameters = list(model.parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        every = sum(p.numel() for p in parameters)
        frozen = "" if trained == every else f", {every - trained:,} of them frozen"
        dtype = str(parameters[0].dtype).removeprefix("torch.")
        return f"{type(model).__name__}: {every:,} parameters{frozen}, {dtype}, on {parameters[0].device}"

    return _part("model", look)


def process_parts(model: Any) -> list[Part]:
    """Whether what several processes do together is recorded; nothing where one trains."""

    def look() -> str:
        processes = processes_of(model)
        if not processes.several:
            return "one process in DistributedDataParallel"
        return (
            f"rank {processes.rank} of {processes.count} in DistributedDataParallel; each records its own part. The "
            f"rest is about this rank's batches: a replay takes those of all ranks one after the other. No hg.Tracker: "
            f"rows come from hg.hypergradients"
        )

    if not isinstance(model, nn.Module):
        return []
    part = _part("processes", look)
    return [part] if isinstance(model, DistributedDataParallel) or not part.ok else []


def optimizer_parts(optimizer: Any) -> list[Part]:
    """Whether the optimizers' steps are known, and which options they have."""
    optimizers = listed(optimizer)
    single = len(optimizers) == 1
    return [
        _part("optimizer" if single else f"optimizer {number}", partial(_optimizer, one))
        for number, one in enumerate(optimizers)
    ]


def _optimizer(optimizer: Any) -> str:
    if not isinstance(optimizer, Optimizer):
        raise DataError(
            f"The optimizer must be one of torch.optim, got a {_kind(optimizer)}. Pass the optimizer over the model's "
            f"parameters."
        )
    rule = rule_of(optimizer)
    groups = optimizer.param_groups
    options = ", ".join(f"{name} {_value(groups[0][name])}" for name in rule.options if groups[0].get(name) is not None)
    several = f"{len(groups)} groups; the first: " if len(groups) > 1 else ""
    warm = "; warm" if any(optimizer.state.values()) else ""
    return f"{type(optimizer).__name__}: {several}{options}{warm}"


def data_part(train_set: Any, model: Any, loss: Any, size: int, collate: Collate | None) -> Part:
    """Whether samples have an index, and are finite."""

    def look() -> str:
        require_map_style(train_set)
        require_finite(train_set, partial(_losses_of, model, loss, train_set, collate))
        if isinstance(model, nn.Module) and callable(loss) and any(True for _ in model.parameters()):
            require_labels_in_range(model, loss, train_set, min(size, len(train_set)), collate)
        return f"{type(train_set).__name__}: {len(train_set):,} samples"

    return _part("data", look)


def _losses_of(model: nn.Module, loss: Any, train_set: Any, collate: Collate | None, samples: list[int]) -> Tensor:
    """Losses of some samples, in eval mode."""
    with preserved(), torch.no_grad():
        copied = copy_of(model).eval()
        device = next(copied.parameters()).device
        return Evaluator(loss)(copied, fetch(train_set, samples, seed=0, collate=collate, device=device))


def loader_part(loader: DataLoader[Any] | None, train_set: Dataset[Any], size: int, drop_last: bool) -> Part:
    """Whether the loader's batches are samples of the training set."""

    def look() -> str:
        if loader is None:
            if drop_last and len(train_set) < size:  # type: ignore[arg-type]
                raise DataError(
                    f"An epoch needs at least one batch of {size} samples where drop_last=True, and the training set "
                    f"has {len(train_set)}. Lower batch_size."  # type: ignore[arg-type]
                )
            return f"{size} samples a batch, in the order of the data"
        if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
            next(iter(indexed(loader)))  # says why
        if loader.dataset is not train_set:
            raise DataError(
                f"The loader's data set must be train_set, so that indices mean the same samples; it is another "
                f"{type(loader.dataset).__name__}. Pass train_set=loader.dataset."
            )
        if len(loader) == 0:
            raise DataError("The loader has no batch. Lower its batch_size, or leave drop_last out.")
        return f"{len(loader):,} batches an epoch, {_sampler(loader)}, {loader.num_workers} workers"

    return _part("loader", look)


def _sampler(loader: DataLoader[Any]) -> str:
    return f"{loader.batch_size} samples each" if loader.batch_size else f"by {type(loader.batch_sampler).__name__}"


def batches_part(setup: Setup) -> Part:
    """Whether a batch comes again the same."""

    def look() -> str:
        first, second = (batch_digest(_fetched(setup)) for _ in range(2))
        if first != second:
            raise ReplayMismatch(
                "The same samples must make the same batch under the same seeds; fetched twice, they made two. Draw "
                "random numbers from torch's, NumPy's or Python's global generators, or store batches "
                "(hg.Recorder(store_batches=True))."
            )
        return f"{', '.join(_shapes(_fetched(setup)))}; they come again the same"

    return _part("batches", look)


def loss_part(setup: Setup) -> Part:
    """Whether the loss is one finite number a sample, whose gradient reaches the weights."""

    def look() -> str:
        if not callable(setup.loss):
            raise DataError(
                f"The loss must be a function of (model, batch), got a {_kind(setup.loss)}. Write it to return one "
                f"number a sample."
            )
        losses = _losses(setup)
        if not losses.isfinite().all():
            raise NonFinite(
                f"The losses of the first batch must be finite, {int((~losses.isfinite()).sum())} of {len(losses)} are "
                f"not. Check the loss function, and the scale and the values of the data."
            )
        if not losses.requires_grad:
            raise LossError(
                "The losses must depend on the model's parameters; these have no gradient. Return the losses "
                "themselves, not detached, and not computed under torch.no_grad()."
            )
        return f"one number a sample: shape {tuple(losses.shape)}, mean {losses.mean().item():.4g}"

    return _part("loss", look)


def randomness_part(setup: Setup) -> Part:
    """Whether the loss is the same again under the same seeds."""

    def look() -> str:
        with seeded(stream_seed(SEED, 0, FORWARD)):
            before = _states()
            first = _evaluated(setup)
            draws = _states() != before
        with seeded(stream_seed(SEED, 0, FORWARD)):
            second = _evaluated(setup)
        if not torch.equal(first, second):
            raise ReplayMismatch(
                "The loss of a batch must be the same again under the same seeds; evaluated twice, it differs. Draw "
                "random numbers from torch's, NumPy's or Python's global generators, keep no state outside of buffers, "
                "and set torch.use_deterministic_algorithms(True) on a GPU."
            )
        return "draws random numbers, from a recorded seed of each step" if draws else "draws no random numbers"

    return _part("randomness", look)


def label_part(setup: Setup) -> Part:
    """Which tensor of the batches is the label: needed for labels, not for recording."""
    copies = setup.copies()
    with preserved():
        label, refusal = attempt(
            lambda: find_label(copies.model, lambda data: setup.loss(copies.model, data), _every_batch(setup))
        )
    if label is not None:
        return Part(name="label", ok=True, found=f"tensor {label.name} of the batch, {label.classes} classes")
    assert refusal is not None
    with preserved():
        target, _ = attempt(
            lambda: find_target(copies.model, lambda data: setup.loss(copies.model, data), _every_batch(setup))
        )
    if target is not None:
        found = f"tensor {target.name} of the batch, {target.kind}: for suspects, not for labels=True"
        return Part(name="label", ok=None, found=found)
    return Part(name="label", ok=None, found=f"none found, needed by labels=True and suspects only: {refusal.cause}")


def last_batch_part(setup: Setup, last: int) -> Part:
    """Whether BatchNorm can take an epoch's last batch."""

    def look() -> str:
        if last == 1:
            require_batch_of_one(setup.copies().model, setup.loss, setup.data, setup.collate)
        return "normalises by the statistics of the batch, which couple its samples"

    return _part("batch norm", look)


def has_batch_norm(model: nn.Module) -> bool:
    """Whether the model would normalise batches while it is trained."""
    return normalises_batches(copy_of(model).train())


def precision_refusal(autocast: torch.dtype | None) -> Refusal | None:
    """Why forward passes can't be tried under this type."""
    if autocast in (None, torch.bfloat16):
        return None
    return refusal_of(
        Unsupported(
            f"autocast must be torch.bfloat16 or None here, got {autocast}. float16 needs a gradient scaler: write the "
            f"loop yourself, with a Recorder in it."
        )
    )


def _part(name: str, look: Callable[[], str]) -> Part:
    found, refusal = attempt(look)
    return Part(name=name, ok=refusal is None, found=found or "", refusal=refusal)


def _fetched(setup: Setup) -> Any:
    seed = stream_seed(SEED, 0, BATCH)
    return fetch(setup.data, setup.batch, seed=seed, collate=setup.collate, device=setup.device)


def _every_batch(setup: Setup) -> Iterator[Any]:
    for group in setup.groups:
        for batch in group:
            yield fetch(setup.data, batch, seed=0, collate=setup.collate, device=setup.device)


def _losses(setup: Setup) -> Tensor:
    """Losses of the first batch on a copy of the model."""
    with preserved(), torch.enable_grad():
        reseed_everything(stream_seed(SEED, 0, FORWARD))
        return _evaluated(setup)


def _evaluated(setup: Setup) -> Tensor:
    model = setup.copies().model
    data = _fetched(setup)
    with under(setup):
        losses = batch_losses(partial(setup.loss, model), data, [setup.samples[place] for place in setup.batch])
    check_losses(losses, len(setup.batch))
    return losses


def _states() -> list[bytes]:
    return [state.numpy().tobytes() for state in every_generator_state().values()]


def _shapes(data: Any) -> list[str]:
    return [f"{str(leaf.dtype).removeprefix('torch.')} {tuple(leaf.shape)}" for leaf in tensor_leaves(data)]


def _value(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_value, value))})"
    value = value.item() if isinstance(value, Tensor) else value
    return f"{value:g}" if isinstance(value, float) else str(value)


def _kind(value: Any) -> str:
    return type(value).__name__
