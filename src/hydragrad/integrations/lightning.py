"""A Lightning Trainer, recorded by a callback: one more entry in its list.

    recording = RecordingCallback("runs/mine", loss, train_set)
    Trainer(..., callbacks=[recording]).fit(module, train_loader)
    scores = hg.attribute(recording.recording(module), hg.mean_loss(val_set))

`loss(module, batch)` gives per-sample losses, and `training_step` returns their mean, however it computes it: the first
step is replayed, so another loss is refused at once. A `training_step` that returns another reduction, or whose mean
rounds otherwise, takes its losses from the callback: `losses = recording.losses(batch)`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, default_collate

from hydragrad.derivatives import PerSampleLoss
from hydragrad.derivatives.leaves import map_tensors
from hydragrad.errors import RecordingMismatch, ReplayMismatch, StepError, Unsupported
from hydragrad.integrations.indexed_loader import IndexedLoader
from hydragrad.integrations.needed import need
from hydragrad.recording import Recorder, StepHandle
from hydragrad.replay import Recording
from hydragrad.replay.data import Collate
from hydragrad.replay.fingerprints import batch_digest
from hydragrad.runs.manifest import FILE

need("lightning", "lightning")

from lightning.pytorch.callbacks import Callback  # noqa: E402
from lightning.pytorch.trainer.connectors.data_connector import _process_dataloader  # noqa: E402
from lightning.pytorch.trainer.states import RunningStage, TrainerFn  # noqa: E402

PRECISIONS = ("32-true", "64-true", "bf16-mixed")


class RecordingCallback(Callback):  # type: ignore[misc]
    """Records what `trainer.fit` does.

    Args:
        path: Run directory.
        loss: `loss(module, batch)`: per-sample losses, shape (batch,), whose mean `training_step` returns.
        train_set: The data set of the training loader.
        options: As `hydragrad.Recorder` takes them: `reduction`, `checkpoint_every`, `seed`, `about`.

    Raises:
        Unsupported: Manual optimization, a strategy for several devices other than DDP, several loaders, or float16.
        ReplayMismatch: `training_step` returns something else than the mean of these losses.
        RecordingMismatch: `fit(ckpt_path=...)`, and the record has no checkpoint of that step.
    """

    def __init__(self, path: str | Path, loss: PerSampleLoss, train_set: Dataset[Any], **options: Any) -> None:
        self.path, self.loss, self.train_set = Path(path).absolute(), loss, train_set
        self._options = options
        self._loader: IndexedLoader | None = None
        self._recorder: Recorder | None = None
        self._handle: StepHandle | None = None
        self._collate: Collate | None = None

    def losses(self, batch: Any) -> Tensor:
        """The recorded losses of the batch of `training_step`, (batch,); reduce them by anything linear, and return it.

        Raises:
            StepError: Outside of a training step, or for the second time in one.
        """
        if self._handle is None:
            raise StepError(
                "losses() belongs inside training_step, while the Trainer fits with this callback. In validation, call "
                "the loss itself."
            )
        return self._handle.losses(batch)

    def recording(self, module: nn.Module) -> Recording:
        """Open the finished run.

        Args:
            module: The recorded LightningModule, or one like it; its weights may be anything.
        """
        return Recording(self.path, module, self.loss, self.train_set, collate=self._collate)

    # --- what the Trainer calls

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Surround the training loader."""
        if stage != "fit":
            return
        _require_recordable(trainer, pl_module)
        source = trainer.fit_loop._data_source
        loader_of = type(source).dataloader

        def indexed_loader() -> Any:
            loader = loader_of(source)
            if not isinstance(loader, DataLoader):
                raise Unsupported(
                    f"A run is recorded with one training DataLoader; this one has a {type(loader).__name__}. Train on "
                    f"one loader."
                )
            if trainer.world_size > 1:  # with its DistributedSampler, which it gives to stock loaders only
                loader = _process_dataloader(trainer, TrainerFn.FITTING, RunningStage.TRAINING, loader)
            self._loader = IndexedLoader(loader)
            return self._loader

        source.dataloader = indexed_loader

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the recorder: the optimizer is ready now, the only one of automatic optimization."""
        assert self._loader is not None
        self._collate = _collate(self._loader.collate_fn, trainer.precision)
        step = trainer.global_step
        if step and not (self.path / FILE).exists():
            raise RecordingMismatch(
                f"A record begins with a run's first step; {self.path} holds none, and the Trainer resumes with step "
                f"{step}. Record the run from its start."
            )
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        resumed: dict[str, Any] = {"resume": True, "resume_at": step} if step else {}
        options: dict[str, Any] = {"scheduler": schedulers[0] if schedulers else None, "collate": self._collate}
        wrapped = trainer.strategy.model
        model = wrapped if isinstance(wrapped, DistributedDataParallel) else pl_module
        self._recorder = Recorder(
            self.path, model, trainer.optimizers[0], self.loss, self.train_set, **options | self._options | resumed
        ).open()
        pl_module.training_step = _followed(pl_module.training_step, self._reduced)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Enter a step."""
        assert self._recorder is not None and self._loader is not None
        samples = self._loader.next_samples()
        samples.digest = batch_digest(batch)  # as the module gets it
        self._handle = self._recorder.begin(samples, batch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Leave it."""
        assert self._recorder is not None
        self._handle = None
        try:
            self._recorder.end()
        except ReplayMismatch as error:
            raise ReplayMismatch(
                f"{error} (training_step must return the mean of the recorded losses, to the last bit. If it returns "
                f"another one, or rounds otherwise: losses = callback.losses(batch); return losses.mean().)"
            ) from error

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """The Trainer can be resumed from here; so can the record."""
        if self._recorder is not None and self._handle is None:
            self._recorder.save()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the recorder."""
        self._close(pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close it, with what ended the run."""
        self._close(pl_module, exception)

    def __deepcopy__(self, memo: dict[int, Any]) -> "RecordingCallback":
        """The same: a copy of a module that holds its callback is made to be replayed."""
        return self

    def _reduced(self, output: Any) -> None:
        loss = output.get("loss") if isinstance(output, dict) else output
        if self._handle is not None and loss is not None:
            self._handle.reduced(loss)

    def _close(self, pl_module: Any, error: BaseException | None = None) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return
        vars(pl_module).pop("training_step", None)
        if self._handle is not None:
            self._handle = None
            recorder.end(error or StepError("training ended inside of a step"))
        recorder.close(error)


def _followed(step: Callable[..., Any], then: Callable[[Any], None]) -> Callable[..., Any]:
    """A plain function, which a copy of the module hands on as it is."""

    def training_step(*args: Any, **kwargs: Any) -> Any:
        output = step(*args, **kwargs)
        then(output)
        return output

    return training_step


def _require_recordable(trainer: Any, module: Any) -> None:
    refused = {
        "manual optimization (automatic_optimization=False)": not module.automatic_optimization,
        "several devices without DistributedDataParallel (use strategy='ddp', with one device a process)": (
            trainer.world_size > 1 and type(trainer.strategy).__name__ != "DDPStrategy"
        ),
        "sync_batchnorm=True (leave it out; BatchNorm is recorded)": (
            trainer.world_size > 1 and any(isinstance(part, nn.SyncBatchNorm) for part in module.modules())
        ),
        f"precision={trainer.precision!r} (use one of {', '.join(PRECISIONS)})": trainer.precision not in PRECISIONS,
    }
    named = [name for name, present in refused.items() if present]
    if named:
        raise Unsupported(
            f"A Lightning Trainer is recorded with automatic optimization and one device a process; this one has "
            f"{' and '.join(named)}. Train without that, or record a loop of your own with hg.Recorder."
        )


def _collate(collate: Collate, precision: str) -> Collate | None:
    """What makes a batch as the module gets it: in 64-true, with its floating-point tensors in float64."""
    if precision == "64-true":
        return _InFloat64(collate)
    return None if collate is default_collate else collate


class _InFloat64:
    """A collate function's batches, in float64."""

    def __init__(self, collate: Collate) -> None:
        self._collate = collate

    def __call__(self, items: list[Any]) -> Any:
        return map_tensors(self._collate(items), _in_float64)


def _in_float64(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float64) if tensor.is_floating_point() else tensor
