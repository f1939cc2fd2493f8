"""A Hugging Face Trainer, recorded while it trains as it always does: with two lines of the user's.

    with record(trainer, "runs/glue") as recorded:
        trainer.train()
    scores = hg.attribute(recorded.recording(), hg.mean_loss(eval_set))

While the block is open, the Trainer's own loss is made of the recorded per-sample losses, reduced as it would have
reduced them; that both are the same is checked at its first steps, and at ever longer distances. Everything else is the
Trainer's: optimizer, schedule, clipping, accumulation, precision, evaluation, saving.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hydragrad.derivatives import PerSampleLoss, bare_model, copy_of
from hydragrad.errors import RecordingMismatch, StepError, Unsupported
from hydragrad.integrations.indexed_loader import IndexedLoader
from hydragrad.integrations.needed import need
from hydragrad.integrations.same_loss import SameLoss, reductions
from hydragrad.integrations.sequence_losses import SequenceLosses, sequence_losses
from hydragrad.randomness import preserved
from hydragrad.recording import Recorder, StepHandle
from hydragrad.recording.prepared import bare_optimizer
from hydragrad.replay import Recording
from hydragrad.runs.manifest import FILE

need("transformers", "transformers")

from transformers import TrainerCallback  # noqa: E402
from transformers import trainer as trainer_module  # noqa: E402

REPLACED = ("get_train_dataloader", "training_step", "compute_loss", "_load_best_model")
"""Methods of a Trainer that are replaced while it is recorded, on this one object."""


@dataclass
class Recorded:
    """A Trainer whose training is recorded, and what opens its record.

    Attributes:
        trainer: The Trainer.
        path: Run directory.
        loss: The per-sample loss that is recorded.
    """

    trainer: Any
    path: Path
    loss: PerSampleLoss = field(repr=False)

    def recording(self) -> Recording:
        """Open the finished run. The Trainer's model may have any weights by then; it is never changed.

        Raises:
            RunNotFound: Nothing was trained inside of the block.
        """
        return recording(self.trainer, self.path, loss=self.loss)


@contextmanager
def record(
    trainer: Any, path: str | Path, *, loss: PerSampleLoss | None = None, chunk: int | None = None, **options: Any
) -> Iterator[Recorded]:
    """Record what `trainer.train()` does inside of the block.

    Args:
        trainer: A transformers.Trainer, of one process and one device, or of several with DistributedDataParallel.
        path: Run directory.
        loss: `loss(model, batch)`: per-sample losses, shape (batch,), whose mean or sum the Trainer descends. If None,
            one loss a sequence from the model's logits and the batch's labels: cross-entropy for classification, the
            sum over its tokens for language models.
        chunk: Of a causal language model with a large vocabulary: positions whose logits exist at the same time
            (`hydragrad.chunked_cross_entropy`), in training and in every derivative; None for all.
        options: As `hydragrad.Recorder` takes them: `checkpoint_every`, `store_batches`, `seed`, `about`.

    Yields:
        What opens the run once it is trained: `recorded.recording()`.

    Raises:
        Unsupported: A setting of the Trainer that changes the model or the gradients in ways that are not recorded, a
            model whose per-sample loss is not known, or a chunk where the head is no plain product.
        StepError: The Trainer's own loss is no mean or sum of the recorded ones.
        RecordingMismatch: `trainer.train(resume_from_checkpoint=...)`, and the record has no checkpoint of that step.
    """
    require_recordable(trainer)
    recorded = Recorded(trainer, Path(path).absolute(), _loss_of(trainer, loss, chunk))
    watched = _Watched(recorded, options)
    watched.enter()
    try:
        yield recorded
    except BaseException as error:
        watched.leave(error)
        raise
    watched.leave()


def recording(
    trainer: Any, path: str | Path, *, loss: PerSampleLoss | None = None, chunk: int | None = None
) -> Recording:
    """Open a run that `record` wrote, with a Trainer like the recorded one: the same model and training set.

    Args:
        trainer: A transformers.Trainer; it need not be trained, and is not changed.
        path: Run directory.
        loss, chunk: As given to `record`.
    """
    with preserved():
        loader = trainer.get_train_dataloader()
    return Recording(path, trainer.model, _loss_of(trainer, loss, chunk), loader.dataset, collate=loader.collate_fn)


def _loss_of(trainer: Any, loss: PerSampleLoss | None, chunk: int | None) -> PerSampleLoss:
    if loss is not None and chunk is not None:
        raise Unsupported("chunk= is for the loss that record makes; a loss of your own takes chunks itself. Give one.")
    return sequence_losses(trainer.model, chunk) if loss is None else loss


def require_recordable(trainer: Any) -> None:
    """Refuse what changes model, gradients or loss in ways that are not recorded.

    Raises:
        Unsupported: Names the setting.
    """
    args, accelerator = trainer.args, trainer.accelerator
    refused = {
        "several devices in one process (use torchrun, one process a device)": args.n_gpu > 1,
        "deepspeed or fsdp (use DistributedDataParallel, torchrun's default)": (
            trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
        ),
        "fp16 (use bf16=True)": bool(args.fp16) or accelerator.scaler is not None,
        "torch_compile": bool(args.torch_compile),
        "neftune_noise_alpha": args.neftune_noise_alpha is not None,
        "auto_find_batch_size": bool(args.auto_find_batch_size),
    }
    named = [name for name, present in refused.items() if present]
    if named:
        raise Unsupported(
            f"A Trainer is recorded with one device a process, in float32, float64 or bfloat16; this one has "
            f"{' and '.join(named)}. Train without that, or record a loop of your own with hg.Recorder."
        )


class _Watched:
    """Replaces four methods of a Trainer, and listens to its steps."""

    def __init__(self, recorded: Recorded, options: dict[str, Any]) -> None:
        self._recorded, self._options = recorded, options
        self._trainer = recorded.trainer
        self._before: dict[str, Any] = {}
        self._own: dict[str, Any] = {}
        self._callback = _Steps(self)
        self._loader: IndexedLoader | None = None
        self._recorder: Recorder | None = None
        self._handle: StepHandle | None = None
        self._same, self._trained = SameLoss("The Trainer"), False

    def enter(self) -> None:
        """Replace the methods."""
        attributes = vars(self._trainer)
        self._before = {name: attributes[name] for name in REPLACED if name in attributes}
        self._own = {name: getattr(self._trainer, name) for name in REPLACED}
        for name in REPLACED:
            setattr(self._trainer, name, getattr(self, f"_{name.lstrip('_')}"))
        self._skip = trainer_module.skip_first_batches
        trainer_module.skip_first_batches = self._skip_first_batches
        self._trainer.add_callback(self._callback)
        callbacks = self._trainer.callback_handler.callbacks
        callbacks.insert(0, callbacks.pop())  # before those that look at the step that was made

    def leave(self, error: BaseException | None = None) -> None:
        """Put them back.

        Raises:
            StepError: Nothing was trained.
        """
        for name in REPLACED:
            delattr(self._trainer, name)
        vars(self._trainer).update(self._before)
        trainer_module.skip_first_batches = self._skip
        self._trainer.remove_callback(self._callback)
        self.close(error)
        if error is None and not self._trained:
            raise StepError(
                f"trainer.train() belongs inside `with record(trainer, {str(self._recorded.path)!r})`; nothing was "
                f"trained there. Call it inside of the block."
            )

    def open(self, step: int) -> None:
        """Training begins, at a step."""
        trainer, loader = self._trainer, self._loader
        assert loader is not None
        resumed = {"resume": True, "resume_at": step} if step else {}
        if resumed and not (self._recorded.path / FILE).exists():
            raise RecordingMismatch(
                f"A record begins with a run's first step; {self._recorded.path} holds none, and the Trainer resumes "
                f"with step {step}. Record the run from its start."
            )
        recorder = Recorder(
            self._recorded.path,
            trainer.model_wrapped if isinstance(trainer.model_wrapped, DistributedDataParallel) else trainer.model,
            bare_optimizer(trainer.optimizer),
            self._recorded.loss,
            loader.dataset,
            **{"scheduler": trainer.lr_scheduler, "collate": loader.collate_fn} | self._options | resumed,
        )
        self._recorder, self._trained = recorder.open(), True

    def save(self) -> None:
        """The Trainer wrote a checkpoint."""
        if self._recorder is not None:
            self._recorder.save()

    def end_block(self) -> None:
        """A micro-batch is over, with the optimizer's step where one followed."""
        self._handle = None
        if self._recorder is not None:
            self._recorder.end()

    def close(self, error: BaseException | None = None) -> None:
        """Training is over."""
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return
        if self._handle is not None:
            self._handle = None
            recorder.end(error)
        recorder.close(error)

    def _get_train_dataloader(self) -> Any:
        self._loader = IndexedLoader(self._own["get_train_dataloader"]())
        return self._loader

    def _training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        assert self._recorder is not None and self._loader is not None
        samples = self._loader.samples_of(inputs)
        self._handle = self._recorder.begin(samples, inputs)
        return self._own["training_step"](model, inputs, *args, **kwargs)

    def _compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        handle, recorder, own = self._handle, self._recorder, self._own["compute_loss"]
        if handle is None or recorder is None:  # an evaluation
            return own(model, inputs, *args, **kwargs)
        items = kwargs.get("num_items_in_batch", args[1] if len(args) > 1 else None)

        def own_loss() -> Tensor:
            with preserved(), torch.no_grad(), self._trainer.accelerator.autocast():
                loss: Tensor = own(copy_of(bare_model(model)), dict(inputs), num_items_in_batch=items)
                return loss

        computed: list[Tensor] = []
        if self._same.due(recorder.next_step):  # first: the running statistics are then those before the step
            computed.append(own_loss())
        losses = handle.losses(inputs)
        loss = self._recorded.loss
        tokens = loss.tokens(inputs) if isinstance(loss, SequenceLosses) else None
        return self._same.reduce(
            recorder.next_step,
            reductions(losses, tokens=tokens, items=items, processes=self._trainer.args.world_size),
            computed[0] if computed else None,
            half=self._trainer.accelerator.mixed_precision == "bf16" or losses.dtype.itemsize < 4,
        )

    def _skip_first_batches(self, loader: Any, num_batches: int = 0) -> Any:
        if self._loader is None or loader is not self._loader:
            return self._skip(loader, num_batches)
        self._loader.recorder = self._recorder  # which knows how many there are
        return self._loader

    def _load_best_model(self) -> None:
        self.close()  # the record ends with the last step
        self._own["_load_best_model"]()


class _Steps(TrainerCallback):  # type: ignore[misc]
    """Hears of a Trainer's steps."""

    def __init__(self, watched: _Watched) -> None:
        self._watched = watched

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the recorder: model, optimizer and schedule are ready now."""
        self._watched.open(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The optimizer stepped."""
        self._watched.end_block()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A micro-batch is over, and no step followed."""
        self._watched.end_block()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The Trainer can be resumed from here; so can the record."""
        self._watched.save()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the recorder."""
        self._watched.close()
