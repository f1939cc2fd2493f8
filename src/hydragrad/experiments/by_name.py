"""The experiment of a data set and a model known by name."""

from pathlib import Path

from torch.utils.data import TensorDataset

from hydragrad.cleaning import flip_labels, load_labels
from hydragrad.datasets import load
from hydragrad.experiments.experiment import Experiment
from hydragrad.experiments.recipes import Start, fresh, recipe_loss
from hydragrad.experiments.settings import Settings


def experiment_by_name(settings: Settings, *, data_dir: Path | None, run: Path | None) -> Experiment:
    """Load the data, flip labels where the settings ask for noise, and take the data set's recipe.

    Args:
        settings: With `data`, `model` and `optimizer`.
        data_dir: Folder with the data set's files.
        run: Run directory whose saved labels, if any, replace newly flipped ones.
    """
    name, optimizer = settings.model, settings.optimizer
    assert settings.data is not None and name is not None and optimizer is not None
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
        return fresh(splits, name, seed=seed, optimizer=optimizer, lr=settings.lr, device=settings.device)

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
