"""The experiment of a data set and a model known by name."""

from pathlib import Path

from torch.utils.data import TensorDataset

from hydragrad.cleaning import flip_labels, load_labels
from hydragrad.datasets import DATASETS, TEXTS, load
from hydragrad.errors import QueryError, UnknownName
from hydragrad.experiments.experiment import Experiment
from hydragrad.experiments.recipes import Start, fresh, recipe_loss
from hydragrad.experiments.settings import Settings
from hydragrad.experiments.text_by_name import experiment_of_text
from hydragrad.models import MODELS, TEXT_MODELS

DATA_NAMES = (*DATASETS, *TEXTS)
MODEL_NAMES = (*MODELS, *TEXT_MODELS)


def require_fitting(data: str, model: str) -> None:
    """Refuse names that are not known, and a model that can't read the data.

    Raises:
        UnknownName: One of them, or that the other does not fit.
    """
    if data not in DATA_NAMES:
        raise UnknownName(f"There is no data set named {data!r}; choose one of: {', '.join(DATA_NAMES)}.")
    if model not in MODEL_NAMES:
        raise UnknownName(f"There is no model named {model!r}; choose one of: {', '.join(MODEL_NAMES)}.")
    kind, fitting = ("text", TEXT_MODELS) if data in TEXTS else ("images", MODELS)
    if model not in fitting:
        raise UnknownName(f"{data} is {kind}, which {model} can't read; choose one of: {', '.join(fitting)}.")


def experiment_by_name(settings: Settings, *, data_dir: Path | None, run: Path | None) -> Experiment:
    """Load the data, flip labels where the settings ask for noise, and take the data set's recipe.

    Args:
        settings: With `data`, `model` and `optimizer`.
        data_dir: Folder with the data set's files.
        run: Run directory whose saved labels, if any, replace newly flipped ones.
    """
    name, optimizer = settings.model, settings.optimizer
    assert settings.data is not None and name is not None and optimizer is not None
    require_fitting(settings.data, name)
    if settings.data in TEXTS:
        return experiment_of_text(settings, data_dir=data_dir)
    if settings.sizes:
        raise QueryError(
            f"{', '.join(settings.sizes)}: only a gpt has sizes to choose, {name} has not. Leave them out."
        )
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
