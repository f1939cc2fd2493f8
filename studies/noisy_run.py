"""One noisy training set, one seed, one recorded run: the input of every ranking of Table 4."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset

from hydragrad.attribution import attribute
from hydragrad.cleaning import Signals, save_labels, training_signals
from hydragrad.datasets import load
from hydragrad.errors import DataError
from hydragrad.experiments.recipes import RECIPES, Start, fresh, recipe_loss
from hydragrad.replay import Recording
from hydragrad.scores import Curvature, Query, Scores, mean_loss
from hydragrad.training import Plan, fit, mean_loss_and_accuracy, train
from hydragrad.training.measuring import evaluated
from studies.noise import make_noisy

FOLDS = 2


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One noisy training set and one seed.

    Attributes:
        data: Name of the data set.
        noise: What is wrong in it, as `make_noisy` takes it.
        size: Training samples, or None for all.
        epochs: Passes over them.
        seed: Of the noise, the initialisation and the order.
        model: Name of the model.
        lr: Initial rate, where it is not the recipe's.
        validation_noise: Share of flipped validation labels.
    """

    data: str
    noise: str
    size: int | None
    epochs: int
    seed: int
    model: str = "lenet5"
    lr: float | None = None
    validation_noise: float = 0.0

    @property
    def name(self) -> str:
        """Name of the setting's folder."""
        rate = "" if self.lr is None else f"-lr{self.lr:g}"
        held_out = f"-v{self.validation_noise:g}" if self.validation_noise else ""
        return f"{self.data}-{self.noise}-{self.size or 'all'}-{self.model}-e{self.epochs}{rate}{held_out}-s{self.seed}"


class NoisyRun:
    """A setting with its recorded run; what the rankings share is computed on first use."""

    def __init__(self, setting: Setting, folder: Path, data_dir: Path | None, workers: int) -> None:
        self.setting, self.folder, self._workers = setting, folder, workers
        self.splits = load(setting.data, data_dir=data_dir, train_size=setting.size, seed=setting.seed)
        noisy = make_noisy(
            self.splits,
            setting.noise,
            seed=setting.seed,
            data_dir=data_dir,
            validation_noise=setting.validation_noise,
        )
        self.train_set, self.validation, self.labels = noisy.train, noisy.validation, noisy.labels
        self.loss = recipe_loss(setting.data)

    def start(self, seed: int) -> Start:
        """Return a new initialisation."""
        return fresh(self.splits, self.setting.model, seed=seed, lr=self.setting.lr)

    def monitor(self, model: nn.Module) -> dict[str, float]:
        """Measure what a plateau schedule needs."""
        if RECIPES[self.setting.data].plateau_factor is None:
            return {}
        return {"validation_loss": mean_loss_and_accuracy(model, self.loss, self.validation)[0]}

    @cached_property
    def run(self) -> Recording:
        """The run on the noisy labels, trained on first use."""
        out = self.folder / "run"
        if not (out / "manifest.json").exists():
            save_labels(out, self.labels)
        start = self.start(self.setting.seed)
        return train(
            start.model,
            self.loss,
            self.train_set,
            start.optimizer,
            epochs=self.setting.epochs,
            batch_size=64,
            out=out,
            scheduler=start.scheduler,
            scheduler_metric=start.scheduler_metric,
            monitor=self.monitor,
            seed=self.setting.seed,
            resume=True,
        )

    @cached_property
    def signals(self) -> Signals:
        """Loss, margin and out-of-fold probabilities."""
        return training_signals(self.run, folds=FOLDS, workers=self._workers)

    def query(self, held_out: str) -> Query:
        """Return the mean loss on a part of the held-out data.

        Args:
            held_out: "validation" or "test"; "first half" of the validation set; "failures": validation samples that
                the network gets wrong.

        Raises:
            DataError: There are no failures.
        """
        first = Subset(self.validation, range(len(self.validation) // 2))
        sets: dict[str, Dataset[Any]] = {
            "validation": self.validation,
            "test": self.splits.test,
            "first half": first,
        }
        if held_out == "failures":
            sets["failures"] = Subset(self.validation, self._failures())
        return mean_loss(sets[held_out], name=f"{held_out} loss")

    def _failures(self) -> list[int]:
        images, labels = self.validation.tensors
        parts = evaluated(
            self.run.trained_model(),
            self.loss,
            range(len(labels)),
            lambda some: [images[list(some)], labels[list(some)]],
            length=len(labels),
        )
        wrong = torch.cat([part.output for part in parts if part.output is not None]).argmax(1) != labels
        if not wrong.any():
            raise DataError("The network gets every validation sample right: there are no failures.")
        failures: list[int] = wrong.nonzero().flatten().tolist()
        return failures

    def scores(self, held_out: str, curvature: Curvature) -> Scores:
        """Return contributions to the loss on a held-out set (`query`), saved with the run."""
        file = self.folder / "scores" / f"{held_out.replace(' ', '-')}-{curvature}.safetensors"
        if not file.exists():
            attribute(self.run, self.query(held_out), curvature=curvature, labels=True).save(file)
        return Scores.load(file)

    @property
    def second_half(self) -> TensorDataset:
        """Of the validation set: it measures where the first half ranked."""
        return TensorDataset(*self.validation[len(self.validation) // 2 :])

    def trained_on(self, train_set: Dataset[Any], held_out: TensorDataset | None = None) -> float:
        """Accuracy on the test set, or another, after training from another initialisation."""
        seed = self.setting.seed + 1
        start = self.start(seed)
        plan = Plan(
            epochs=self.setting.epochs,
            batch_size=64,
            seed=seed,
            scheduler=start.scheduler,
            scheduler_metric=start.scheduler_metric,
            monitor=self.monitor,
        )
        fit(start.model, self.loss, train_set, start.optimizer, plan)
        accuracy = mean_loss_and_accuracy(start.model, self.loss, held_out or self.splits.test)[1]
        assert accuracy is not None
        return accuracy
