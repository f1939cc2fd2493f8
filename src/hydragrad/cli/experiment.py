"""An experiment: everything that the command line needs to train, reopen and judge a run."""

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset, TensorDataset

from hydragrad.cleaning import Labels, flip_labels, labels_of, load_labels
from hydragrad.cli.named_query import NamedQuery
from hydragrad.datasets import load
from hydragrad.derivatives import PerSampleLoss
from hydragrad.errors import DataError, RecordingMismatch, UnknownName
from hydragrad.replay import Recording, require_map_style
from hydragrad.runs.manifest import read_manifest
from hydragrad.scores import Query, mean_loss, sample_losses
from hydragrad.studies.recipes import Start, fresh, recipe_loss
from hydragrad.training import mean_loss_and_accuracy


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run was asked for on the command line, kept in its manifest.

    Attributes:
        source: `module:function` of the user's own, or None for a data set and model by name.
        data, model: Names, where `source` is None.
        noise: Share of the training labels flipped.
        train_size, validation_size, test_size: Samples of each part, or None for all.
        epochs, batch_size: As trained.
        lr: Initial rate, or None for the recipe's.
        seed: Initialisation, order, randomness and noise.
        device: cpu or cuda.
    """

    source: str | None = None
    data: str | None = None
    model: str | None = None
    noise: float = 0.0
    train_size: int | None = None
    validation_size: int | None = None
    test_size: int | None = None
    epochs: int = 10
    batch_size: int = 64
    lr: float | None = None
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Data, loss and fresh starts.

    Attributes:
        settings: What was asked for.
        start: `start(seed)` initialises anew.
        loss: Per-sample loss.
        train_set: What is trained on, noise included.
        held_out: Further data sets by name: validation, test.
        labels: Given and true labels, where noise was planted.
        classes: Names of the labels, where known.
        render: Picture of any data set's item, where there are any.
        shown: Picture of any data set's input, where there are any.
    """

    settings: Settings
    start: Callable[[int], Start]
    loss: PerSampleLoss
    train_set: Dataset[Any]
    held_out: Mapping[str, Dataset[Any]]
    labels: Labels | None = None
    classes: tuple[str, ...] | None = None
    render: Callable[[Any], NDArray[np.uint8]] | None = None
    shown: Callable[[Tensor], NDArray[np.uint8]] | None = None

    def query(self, text: str) -> Query:
        """The query named on the command line: `validation`, `test`, `train`, or one sample, `test:42`.

        Raises:
            QueryError: No such data set, or no such sample.
        """
        named = self.named_query(text)
        data = self.data_set(named.data_set)
        if named.sample is not None:
            return sample_losses(data, [named.sample])
        return mean_loss(data, name=f"{named.data_set} loss")

    def named_query(self, text: str) -> NamedQuery:
        """Data set and sample of a query that was typed on the command line.

        Raises:
            QueryError: No such data set, or no number of a sample.
        """
        return NamedQuery.parse(text, [*self.held_out, "train"])

    def known_labels(self) -> frozenset[int]:
        """The labels that a training sample may carry: the named ones, else those that occur.

        Raises:
            DataError: The training set has no integer labels.
        """
        return frozenset(range(len(self.classes)) if self.classes else labels_of(self.train_set).tolist())

    def data_set(self, name: str) -> Dataset[Any]:
        """A data set by name: train, or one of the held-out ones.

        Raises:
            UnknownName: There is none of that name.
        """
        known = {**self.held_out, "train": self.train_set}
        if name not in known:
            raise UnknownName(f"There is no data set {name!r} here; there are {', '.join(known)}.")
        return known[name]

    def test_accuracy(self, model: nn.Module) -> float | None:
        """Share of right predictions on the test set, if there is one and the model classifies."""
        if "test" not in self.held_out:
            return None
        return mean_loss_and_accuracy(model, self.loss, self.held_out["test"])[1]

    def monitor(self, model: nn.Module) -> dict[str, float]:
        """Loss and accuracy on the validation set, once an epoch."""
        if "validation" not in self.held_out:
            return {}
        value, accuracy = mean_loss_and_accuracy(model, self.loss, self.held_out["validation"])
        return {"validation_loss": value} | ({} if accuracy is None else {"validation_accuracy": accuracy})


def experiment(settings: Settings, *, data_dir: Path | None, run: Path | None = None) -> Experiment:
    """Build what settings ask for; the labels kept with `run`, if any, are used as they are."""
    return _own(settings) if settings.source else _named(settings, data_dir, run)


def open_run(run: Path, *, data_dir: Path | None) -> tuple[Experiment, Recording]:
    """Reopen a run that the command line trained.

    Raises:
        RunNotFound: There is none.
        RecordingMismatch: It was recorded from Python, so the command line can't build its model.
    """
    about = read_manifest(run).about
    if "settings" not in about:
        raise RecordingMismatch(
            f"{run} was recorded from Python, so the command line does not know its model and data. Open it with "
            f"hg.Recording(path, model, loss, train_set), or train with `hydragrad train --from module:function`."
        )
    settings = Settings(**about["settings"])
    if settings.device == "cuda" and not torch.cuda.is_available():
        settings = replace(settings, device="cpu")
    found = experiment(settings, data_dir=data_dir, run=run)
    return found, Recording(run, found.start(settings.seed).model, found.loss, found.train_set)


def require_same_settings(run: Path, settings: Settings) -> None:
    """Refuse to go on with a run under other settings; more epochs, and another device, are welcome.

    Raises:
        RecordingMismatch: Names what differs.
    """
    asked, recorded = asdict(settings), read_manifest(run).about.get("settings")
    if recorded is None:
        raise RecordingMismatch(f"{run} was recorded from Python; go on with it there, with resume=True.")
    recorded = asdict(Settings(**recorded))
    differing = [
        f"{name}: {recorded[name]} then, {value} now"
        for name, value in asked.items()
        if value != recorded[name] and name not in ("epochs", "device")
    ]
    if differing:
        raise RecordingMismatch(
            f"{run} was trained with other settings ({'; '.join(differing)}). Give the command that it was trained "
            f"with, and --resume."
        )


def settings_entry(settings: Settings) -> dict[str, Any]:
    """The manifest's entry."""
    return {"settings": asdict(settings)}


def _named(settings: Settings, data_dir: Path | None, run: Path | None) -> Experiment:
    assert settings.data is not None and settings.model is not None
    splits = load(
        settings.data,
        data_dir=data_dir,
        train_size=settings.train_size,
        validation_size=settings.validation_size,
        test_size=settings.test_size,
    )
    images, true = splits.train.tensors
    classes = len(splits.classes)
    labels = (load_labels(run) if run is not None else None) or (
        flip_labels(true, settings.noise, classes=classes, seed=settings.seed) if settings.noise else None
    )

    def start(seed: int) -> Start:
        return fresh(splits, settings.model or "", seed=seed, lr=settings.lr, device=settings.device)

    return Experiment(
        settings=settings,
        start=start,
        loss=recipe_loss(settings.data),
        train_set=TensorDataset(images, true if labels is None else labels.given),
        held_out={"validation": splits.validation, "test": splits.test},
        labels=labels,
        classes=splits.classes,
        render=lambda item: splits.picture(item[0]),
        shown=splits.picture,
    )


def _own(settings: Settings) -> Experiment:
    function = _function(settings.source or "")
    _, loss, train_set, _, held_out = _called(settings.source or "", function)

    def start(seed: int) -> Start:
        torch.manual_seed(seed)
        fresh, _, _, steps, _ = _called(settings.source or "", function)
        return Start(model=fresh.to(settings.device), optimizer=steps)

    return Experiment(settings=settings, start=start, loss=loss, train_set=train_set, held_out=held_out)


def _function(source: str) -> Callable[[], Any]:
    module, colon, name = source.partition(":")
    if not colon:
        raise UnknownName(f"--from takes module:function, as in my_training:setup; {source!r} came.")
    if "" not in sys.path:
        sys.path.insert(0, "")  # A module beside the user, as `python -m` finds it.
    try:
        found: Callable[[], Any] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0] and error.name != module:
            raise
        raise UnknownName(f"There is no module {module!r} to import here (--from {source}).") from error
    except AttributeError as error:
        raise UnknownName(f"Module {module!r} has no {name!r} (--from {source}).") from error
    return found


def _called(source: str, function: Callable[[], Any]) -> tuple[Any, Any, Any, Any, Mapping[str, Any]]:
    result = function()
    size = len(result) if isinstance(result, tuple) else 0
    if size not in (4, 5):
        raise DataError(
            f"{source} must return (model, loss, train_set, optimizer), and after them, if you like, a dict of "
            f"held-out data sets such as {{'validation': ..., 'test': ...}}; it returned "
            f"{f'{size} things' if size else type(result).__name__}."
        )
    held_out = result[4] if size == 5 else {}
    model, loss, train_set, optimizer = result[:4]
    _require_kinds(source, model, loss, train_set, optimizer, held_out)
    return model, loss, train_set, optimizer, held_out


def _require_kinds(source: str, model: Any, loss: Any, train_set: Any, optimizer: Any, held_out: Any) -> None:
    """Refuse things that can't be what their place in the function's result says.

    Raises:
        DataError: Says which, and what came.
    """
    is_kind = {
        "model must be a torch.nn.Module": isinstance(model, nn.Module),
        "loss must be a function of (model, batch)": callable(loss),
        "optimizer must be a torch.optim.SGD": isinstance(optimizer, Optimizer),
        "held-out data must be a dict of data sets by name": isinstance(held_out, Mapping),
    }
    given = (model, loss, optimizer, held_out)
    for (must, holds), came in zip(is_kind.items(), given, strict=True):
        if not holds:
            raise DataError(f"{source} returned a {type(came).__name__} in a place where the {must}.")
    for name, samples in {"train_set": train_set, **held_out}.items():
        require_map_style(samples, f"data set {name!r} that {source} returned")
