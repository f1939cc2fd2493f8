"""A real use: wrong labels in a published test set, found by training on it.

A network is trained on the published test set as if it were training data, and its labels are ranked by suspicion. For
some hundred of them it is known what five people said. The run is kept, so that an interrupted study goes on.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from sklearn.metrics import roc_auc_score

from hydragrad.attribution import attribute
from hydragrad.cleaning import suspects
from hydragrad.datasets import Splits, checked_labels, load
from hydragrad.figures import picture_grid
from hydragrad.replay import Recording
from hydragrad.scores import Query, Scores, mean_loss
from hydragrad.studies.recipes import RECIPES, fresh, recipe_loss
from hydragrad.training import mean_loss_and_accuracy, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class LabelErrors:
    """What was found.

    Attributes:
        ranked: As `hg.suspects`, with `votes` (of five people for the given label; missing where nobody was asked) and
            `wrong` (fewer than three).
        picture: The first suspects: number, given → suggested label, how many of five people agree with the given one.
    """

    ranked: pd.DataFrame
    picture: "Figure"

    @property
    def known(self) -> int:
        """How many labels are known to be wrong."""
        return int(self.ranked["wrong"].sum())

    def found(self, first: int) -> int:
        """How many of them are among the first suspects."""
        return int(self.ranked["wrong"].head(first).sum())

    @property
    def auc(self) -> float:
        """Probability that a label known to be wrong ranks above another one."""
        return float(roc_auc_score(self.ranked["wrong"], self.ranked["suspicion"]))


def reproduce_label_errors(
    out: Path, *, data: str = "mnist", data_dir: Path | None = None, epochs: int | None = None, shown: int = 32
) -> LabelErrors:
    """Train on the published test set and rank its labels.

    Args:
        out: Folder for the run.
        data: mnist or cifar10.
        data_dir: Where the files lie.
        epochs: Passes over the test set; the recipe's if None.
        shown: Suspects in the picture.

    Raises:
        UnknownName: A data set whose labels nobody checked.
    """
    checked = checked_by_people(data, data_dir)
    splits = load(data, data_dir=data_dir)
    run, scores, held_out = trained_on_test_set(out, splits, epochs)
    ranked = suspects(run, scores, held_out=held_out)
    ranked["votes"] = ranked["sample"].map(checked["votes"])
    ranked["wrong"] = ranked["sample"].isin(checked.index[checked["wrong"]])
    images, names = splits.test.tensors[0], splits.classes
    columns = ranked.head(shown)[["sample", "given_label", "suggested_label", "votes"]].to_dict("list")
    pictures, captions = [], []
    for sample, given, suggested, votes in zip(*columns.values(), strict=True):
        pictures.append(splits.picture(images[sample]))
        captions.append(f"{sample}\n{names[given]} → {names[suggested]}?\n{_said(votes)}")
    picture = picture_grid(pictures, captions, columns=8)
    return LabelErrors(ranked=ranked, picture=picture)


def checked_by_people(data: str, data_dir: Path | None = None) -> pd.DataFrame:
    """What people said of doubtful labels: `votes` for the given one and `wrong`, by sample of the test set."""
    checked = checked_labels(data, data_dir=data_dir)
    said = pd.DataFrame({"votes": [each.votes for each in checked], "wrong": [each.wrong for each in checked]})
    return said.set_index(pd.Index([each.sample for each in checked], name="sample"))


def trained_on_test_set(out: Path, splits: Splits, epochs: int | None = None) -> tuple[Recording, Scores, Query]:
    """The run on the published test set, its contributions to the loss on validation samples, and that question."""
    start, loss = fresh(splits, "lenet5", seed=0), recipe_loss(splits.name)
    run = train(
        start.model,
        loss,
        splits.test,
        start.optimizer,
        epochs=epochs or RECIPES[splits.name].epochs,
        batch_size=64,
        out=out,
        scheduler=start.scheduler,
        scheduler_metric=start.scheduler_metric,
        monitor=lambda model: {"validation_loss": mean_loss_and_accuracy(model, loss, splits.validation)[0]},
        resume=True,
    )
    file, held_out = out / "scores" / "validation-none.safetensors", mean_loss(splits.validation, "validation loss")
    if not file.exists():
        attribute(run, held_out).save(file)
    return run, Scores.load(file), held_out


def _said(votes: float) -> str:
    return "–" if pd.isna(votes) else f"{votes:.0f} of 5"
