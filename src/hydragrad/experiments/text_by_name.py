"""The experiment of a text and a model known by name."""

from pathlib import Path

from hydragrad.datasets import load_text
from hydragrad.errors import QueryError
from hydragrad.experiments.backwards import spelled_backwards
from hydragrad.experiments.experiment import Experiment
from hydragrad.experiments.recipes import Start
from hydragrad.experiments.settings import Settings
from hydragrad.experiments.text_recipes import fresh_text_model, loss_and_next_token_accuracy, next_token_loss
from hydragrad.training import Plan

BLOCK_SIZE = "block_size"
"""The one of `Settings.sizes` that belongs to the text rather than to the model."""


def experiment_of_text(settings: Settings, *, data_dir: Path | None) -> Experiment:
    """Load the text and take its recipe.

    Args:
        settings: With `data`, `model` and `optimizer`.
        data_dir: Folder with the text's file.

    Raises:
        QueryError: Noise in another text than names.
        DataError: More noise than there are names to spell backwards.
    """
    name, optimizer = settings.model, settings.optimizer
    assert settings.data is not None and name is not None and optimizer is not None
    if settings.noise and settings.data != "names":
        raise QueryError(f"--noise flips labels, or spells names backwards; {settings.data} has neither. Leave it out.")
    sizes = dict(settings.sizes or {})
    splits = load_text(
        settings.data,
        data_dir=data_dir,
        block_size=sizes.pop(BLOCK_SIZE, None),
        train_size=settings.train_size,
        validation_size=settings.validation_size,
        test_size=settings.test_size,
    )
    train_set, planted = splits.train, None
    if settings.noise:
        train_set, planted = spelled_backwards(splits.train, share=settings.noise, seed=settings.seed)
    plan = Plan(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        drop_last=settings.drop_last,
        accumulate=settings.accumulate,
    )

    def start(seed: int) -> Start:
        return fresh_text_model(
            splits,
            name,
            seed=seed,
            steps=plan.steps(len(splits.train)),
            sizes=sizes,
            optimizer=optimizer,
            lr=settings.lr,
            device=settings.device,
        )

    return Experiment(
        settings=settings,
        start=start,
        loss=next_token_loss,
        train_set=train_set,
        held_out={"validation": splits.validation, "test": splits.test},
        render=splits.text,
        pieces=splits.pieces,
        measure=loss_and_next_token_accuracy,
        planted=planted,
        accuracy_name="next-character accuracy",
    )
