"""A skorch net, recorded by a callback: one more entry in its list.

    recording = RecordingCallback("runs/mine")
    net = NeuralNetClassifier(Module, ..., callbacks=[recording]).fit(x, y)
    scores = hg.attribute(recording.recording(net), hg.mean_loss(held_out))

The samples are those of the net's training split, in its order: `recording.train_set`.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from hydragrad.derivatives import PerSampleLoss
from hydragrad.errors import StepError, Unsupported
from hydragrad.integrations.indexed_loader import IndexedLoader
from hydragrad.integrations.needed import need
from hydragrad.recording import Recorder, StepHandle
from hydragrad.replay import Recording

need("skorch", "skorch")

from skorch.callbacks import Callback  # noqa: E402
from skorch.dataset import unpack_data  # noqa: E402

REPLACED = ("get_iterator", "train_step", "get_loss")
"""Methods of a net that are replaced while it is recorded, on this one object."""
LEFT_OUT = ("callbacks", "callbacks_", "history_", "optimizer_", "module", "module_", "train_split", *REPLACED)
"""What a net needs for nothing but training."""


class RecordingCallback(Callback):  # type: ignore[misc]
    """Records what `net.fit` does.

    Args:
        path: Run directory.
        loss: `loss(module, batch)`: per-sample losses, shape (batch,), whose mean the net descends. If None, the net's
            own, with its criterion's reduction left out.
        checkpoint_every: As `hydragrad.Recorder` takes it.
        seed: As `hydragrad.Recorder` takes it.

    Attributes:
        train_set: The net's training split, once it was fitted.

    Raises:
        Unsupported: A criterion without a mean or sum to leave out, or several optimizers.
        ReplayMismatch: The net descends something else than the mean of these losses.
    """

    def __init__(
        self,
        path: str | Path,
        loss: PerSampleLoss | None = None,
        checkpoint_every: int | None = None,
        seed: int | None = None,
    ) -> None:
        self.path, self.loss, self.checkpoint_every, self.seed = path, loss, checkpoint_every, seed

    def initialize(self) -> "RecordingCallback":
        """Forget an earlier fit."""
        self.train_set: Any = None
        self._collate: Any = None
        self._recorder: Recorder | None = None
        self._handle: StepHandle | None = None
        self._loader: IndexedLoader | None = None
        return self

    def recording(self, net: Any) -> Recording:
        """Open the finished run.

        Args:
            net: The fitted net; its weights may be anything by now.
        """
        loss = net_losses(net) if self.loss is None else self.loss
        return Recording(self.path, net.module_, loss, self.train_set, collate=self._collate)

    # --- what the net calls

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Replace three methods of the net, on this one object."""
        if len(net._optimizers) != 1:
            raise Unsupported(
                f"A run is recorded with one optimizer; this net has {', '.join(net._optimizers)}. Put the parameters "
                f"into groups of one."
            )
        self._end(net, StepError("the net was fitted again"))  # where an error ended an earlier fit
        vars(net).update(
            get_iterator=self._indexed(net.get_iterator),
            train_step=self._recorded(net, net.train_step),
            get_loss=self._observed(net.get_loss),
        )

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Open the recorder: the training split is known now."""
        if self._recorder is not None or self._loader is None:
            return
        loss = net_losses(net) if self.loss is None else self.loss
        own = self._loader.collate_fn
        self.train_set, self._collate = self._loader.dataset, None if own is default_collate else own
        self._recorder = Recorder(
            self.path,
            net.module_,
            net.optimizer_,
            loss,
            self.train_set,
            collate=self._collate,
            reduction="sum" if getattr(net.criterion_, "reduction", "mean") == "sum" else "mean",
            checkpoint_every=self.checkpoint_every,
            seed=self.seed,
        ).open()

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Close the recorder."""
        self._end(net)

    def _end(self, net: Any, error: BaseException | None = None) -> None:
        for name in REPLACED:
            vars(net).pop(name, None)
        recorder, self._recorder, self._loader = self._recorder, None, None
        if recorder is not None:
            recorder.close(error)

    def _indexed(self, own: Callable[..., Any]) -> Callable[..., Any]:
        def get_iterator(dataset: Any, training: bool = False) -> Any:
            loader = own(dataset, training=training)
            if not training:
                return loader
            if not isinstance(loader, DataLoader):
                raise Unsupported(
                    f"A net is recorded with a DataLoader; its iterator_train is a {type(loader).__name__}. Train on a "
                    f"DataLoader."
                )
            self._loader = IndexedLoader(loader)
            return self._loader

        return get_iterator

    def _recorded(self, net: Any, own: Callable[..., Any]) -> Callable[..., Any]:
        def train_step(batch: Any, **fit_params: Any) -> Any:
            assert self._recorder is not None and self._loader is not None
            try:
                with self._recorder.step(self._loader.samples_of(batch), batch) as self._handle:
                    return own(batch, **fit_params)
            except Exception as error:  # a net tells no callback of it
                self._end(net, error)
                raise
            finally:
                self._handle = None

        return train_step

    def _observed(self, own: Callable[..., Any]) -> Callable[..., Any]:
        def get_loss(*args: Any, **kwargs: Any) -> Any:
            loss = own(*args, **kwargs)
            if self._handle is not None:
                self._handle.reduced(loss)
            return loss

        return get_loss


class NetLosses:
    """`loss(module, batch)` of a skorch net: what it computes of a batch, without its criterion's reduction.

    Args:
        net: An initialized net; its criterion is copied.
        criterion: The criterion, with reduction="none".
    """

    def __init__(self, net: Any, criterion: nn.Module) -> None:
        self._class = type(net)
        self._entries = {name: value for name, value in vars(net).items() if name not in LEFT_OUT}
        self._entries["criterion_"] = criterion

    def __call__(self, module: Any, batch: Any) -> Tensor:
        """One loss a sample, (batch,)."""
        net = object.__new__(self._class)
        vars(net).update(self._entries, module_=module)
        inputs, targets = unpack_data(batch)
        losses: Tensor = net.get_loss(net.infer(inputs), targets, X=inputs, training=True)
        return losses if losses.dim() == 1 else losses.flatten(1).mean(1)


def net_losses(net: Any) -> NetLosses:
    """The per-sample loss of an initialized net.

    Raises:
        Unsupported: Its criterion has no mean or sum to leave out.
    """
    if getattr(net.criterion_, "reduction", None) not in ("mean", "sum"):
        raise Unsupported(
            f"The per-sample loss must be given for a {type(net.criterion_).__name__}; it is known for criteria with "
            f"reduction='mean' or 'sum'. Give RecordingCallback(..., loss=...): loss(module, batch) returns one number "
            f"a sample."
        )
    criterion = copy.deepcopy(net.criterion_)
    criterion.reduction = "none"
    return NetLosses(net, criterion)
