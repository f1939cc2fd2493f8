"""A real use: wrong labels in a published test set, found by training on it.

A network is trained on the published test set as if it were training data, and its labels are ranked by suspicion. For
some hundred of them it is known what five people said. The run is saved, so that an interrupted study resumes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pandas as pd
import typer
from sklearn.metrics import roc_auc_score

from hydragrad.attribution import attribute
from hydragrad.cleaning import suspects
from hydragrad.cli.console import say, table, write_json
from hydragrad.cli.options import DataDir, Json, Quiet
from hydragrad.datasets import Splits, load
from hydragrad.experiments.recipes import RECIPES, fresh, recipe_loss
from hydragrad.figures import picture_grid
from hydragrad.progress import quiet
from hydragrad.replay import Recording
from hydragrad.scores import Query, Scores, mean_loss
from hydragrad.training import mean_loss_and_accuracy, train
from studies.checked_labels import checked_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSPECTED = (15, 50, 100, 200, 500)
"""Numbers of first suspects among which known errors are counted."""


@dataclass(frozen=True, kw_only=True)
class LabelErrors:
    """The ranking, and how well it agrees with people.

    Attributes:
        ranked: As `hg.suspects`, with `votes` (of five people for the given label; missing if nobody checked it) and
            `wrong` (fewer than three).
        picture: The first suspects: number, given → suggested label, how many of five people agree with the given one.
    """

    ranked: pd.DataFrame
    picture: "Figure"

    @property
    def known(self) -> int:
        """Number of labels known to be wrong."""
        return int(self.ranked["wrong"].sum())

    def found(self, first: int) -> int:
        """Return how many of them are among the first suspects."""
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
        data_dir: Folder with the files.
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
        captions.append(f"{sample}\n{names[given]} → {names[suggested]}?\n{_agreement(votes)}")
    picture = picture_grid(pictures, captions, columns=8)
    return LabelErrors(ranked=ranked, picture=picture)


def checked_by_people(data: str, data_dir: Path | None = None) -> pd.DataFrame:
    """Return what people said of doubtful labels: `votes` for the given one and `wrong`, by sample of the test set."""
    checked = checked_labels(data, data_dir=data_dir)
    votes = pd.DataFrame({"votes": [label.votes for label in checked], "wrong": [label.wrong for label in checked]})
    return votes.set_index(pd.Index([label.sample for label in checked], name="sample"))


def trained_on_test_set(out: Path, splits: Splits, epochs: int | None = None) -> tuple[Recording, Scores, Query]:
    """Return the run on the published test set, its contributions to the validation loss, and that query."""
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


def _agreement(votes: float) -> str:
    return "–" if pd.isna(votes) else f"{votes:.0f} of 5"


def label_errors(
    data: Annotated[str, typer.Option(help="Data set: mnist or cifar10.")] = "mnist",
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the test set (default: the paper's).")] = None,
    out: Annotated[Path, typer.Option(help="Folder for run, table and picture.")] = Path("runs/label-errors"),
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Wrong labels in a published test set, compared with people.

    Trains LeNet-5 on the test set, ranks its labels, compares them with what five people said of the doubtful ones, and
    writes OUT/DATA/suspects.csv and OUT/DATA/suspects.png. If interrupted, the same command resumes.

    Example: python -m studies label-errors --data mnist
    """
    folder = out / data
    with quiet(silent):
        errors = reproduce_label_errors(folder, data=data, data_dir=data_dir, epochs=epochs)
    errors.ranked.to_csv(folder / "suspects.csv", index=False)
    errors.picture.savefig(folder / "suspects.png", dpi=160)
    counts = {f"found_in_first_{first}": errors.found(first) for first in INSPECTED}
    rows = {f"of {errors.known} known errors, in the first {first}": str(errors.found(first)) for first in INSPECTED}
    table(f"{len(errors.ranked):,} test labels of {data}", rows | {"AUC": f"{errors.auc:.4f}"})
    say(f"suspects: {folder / 'suspects.csv'}; picture: {folder / 'suspects.png'}")
    write_json(json, {"known": errors.known, "auc": errors.auc, **counts})
