"""The paper's Tables 1 and 2: training samples with extreme contributions, and the test samples that they move.

A network is trained on clean labels. Table 1 names the training samples that harm and help the mean test loss most,
Table 2 the single test samples that each of them moves most. Run, scores and rows are saved, so that an interrupted
study resumes.

Source: Chen et al. 2021, section 4.2, Tables 1 and 2.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hydragrad.attribution import attribute
from hydragrad.datasets import Splits, load
from hydragrad.experiments.recipes import RECIPES, fresh, recipe_loss
from hydragrad.figures import picture_grid
from hydragrad.replay import Recording
from hydragrad.reports.wording import signed
from hydragrad.scores import Scores, mean_loss, sample_losses
from hydragrad.tracking import Store, hypergradients
from hydragrad.tracking.facts import FILE
from hydragrad.training import mean_loss_and_accuracy, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH = 500


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A test sample that a training sample moved.

    Attributes:
        sample: Number of the test sample.
        label, predicted: True and predicted label.
        confidence: Probability of the predicted label.
        contribution: Of the training sample to this one's loss, nats; positive helps.
    """

    sample: int
    label: int
    predicted: int
    confidence: float
    contribution: float


@dataclass(frozen=True, kw_only=True)
class Extreme:
    """A training sample with an extreme contribution.

    Attributes:
        sample: Its number among the training samples.
        label, predicted: True label, and the trained model's.
        confidence: Probability of the predicted label.
        contribution: To the mean test loss, nats; positive helps.
        harmed, helped: Test samples that it moved most, the most extreme first.
    """

    sample: int
    label: int
    predicted: int
    confidence: float
    contribution: float
    harmed: tuple[Moved, ...]
    helped: tuple[Moved, ...]


@dataclass(frozen=True, kw_only=True)
class Extremes:
    """The most harmful and most helpful training samples, and what they moved.

    Attributes:
        harmful, helpful: Training samples, the most extreme first.
        mean: Mean contribution of all training samples, nats.
        test_accuracy: Of the trained model.
        splits: The data, for pictures.
    """

    harmful: tuple[Extreme, ...]
    helpful: tuple[Extreme, ...]
    mean: float
    test_accuracy: float
    splits: Splits

    def table1(self) -> "Figure":
        """Draw the training samples as pictures, harmful ones first; label → predicted label and its probability."""
        shown = [*self.harmful, *self.helpful]
        captions = [
            f"{extreme.sample}\n{extreme.label} → {extreme.predicted}, {extreme.confidence:.0%}\n"
            f"{signed(extreme.contribution)}"
            for extreme in shown
        ]
        return picture_grid([self._picture(extreme.sample) for extreme in shown], captions, len(self.harmful))

    def table2(self) -> "Figure":
        """Draw a row a training sample: itself, then the test samples that it harmed and helped most."""
        pictures, captions = [], []
        columns = 1
        for extreme in (*self.harmful, *self.helpful):
            pictures.append(self._picture(extreme.sample))
            captions.append(f"{extreme.sample}\n{extreme.label}\n{signed(extreme.contribution)}")
            columns = 1 + len(extreme.harmed) + len(extreme.helped)
            for test in (*extreme.harmed, *extreme.helped):
                pictures.append(self.splits.picture(self.splits.test.tensors[0][test.sample]))
                captions.append(f"test {test.sample}\n{test.label} → {test.predicted}\n{signed(test.contribution)}")
        return picture_grid(pictures, captions, columns)

    def _picture(self, sample: int) -> NDArray[np.uint8]:
        return self.splits.picture(self.splits.train.tensors[0][sample])


def reproduce_extremes(
    out: Path,
    *,
    data: str = "mnist",
    data_dir: Path | None = None,
    train_size: int | None = None,
    epochs: int | None = None,
    curvature: Literal["none", "hessian"] = "none",
    top: int = 5,
    moved: int = 3,
    seed: int = 0,
) -> Extremes:
    """Train on clean labels and find the extremes; run, scores and rows in `out` are reused.

    Args:
        out: Folder for the run.
        data: Name of the data set.
        data_dir: Folder with its files.
        train_size: Training samples; all if None.
        epochs: Passes over them; the recipe's if None.
        curvature: Of the contributions to the mean test loss that choose the samples.
        top: How many training samples on either side.
        moved: How many test samples for each of them, on either side.
        seed: Of initialisation and order.
    """
    splits = load(data, data_dir=data_dir, train_size=train_size)
    start, loss = fresh(splits, "lenet5", seed=seed), recipe_loss(data)
    run = train(
        start.model,
        loss,
        splits.train,
        start.optimizer,
        epochs=epochs or RECIPES[data].epochs,
        batch_size=64,
        out=out / "run",
        scheduler=start.scheduler,
        scheduler_metric=start.scheduler_metric,
        monitor=lambda model: {"validation_loss": mean_loss_and_accuracy(model, loss, splits.validation)[0]},
        seed=seed,
        resume=True,
    )
    scores = _saved_scores(run, splits, curvature)
    harmful, helpful = scores.most_harmful(top), scores.most_helpful(top)
    store = _saved_rows(run, [*harmful, *helpful], curvature)
    single = store.contributions(sample_losses(splits.test, range(len(splits.test))))
    assert isinstance(single, Scores)
    column = {int(sample): number for number, sample in enumerate(single.sample_ids)}
    model = run.trained_model()
    on_test, on_train = _probabilities(model, splits.test), _probabilities(model, splits.train)
    accuracy = float((on_test.argmax(1) == splits.test.tensors[1]).double().mean())

    def extreme(sample: int) -> Extreme:
        contributions = single.values[:, column[sample]]
        order = contributions.argsort()
        return Extreme(
            sample=sample,
            **_predicted(on_train, splits.train, sample),
            contribution=float(scores.row()[sample]),
            harmed=tuple(moved_by(int(i), contributions) for i in order[:moved]),
            helped=tuple(moved_by(int(i), contributions) for i in order.flip(0)[:moved]),
        )

    def moved_by(test: int, contributions: Tensor) -> Moved:
        return Moved(sample=test, **_predicted(on_test, splits.test, test), contribution=float(contributions[test]))

    return Extremes(
        harmful=tuple(extreme(sample) for sample in harmful),
        helpful=tuple(extreme(sample) for sample in helpful),
        mean=float(scores.row().mean()),
        test_accuracy=accuracy,
        splits=splits,
    )


class _Predicted(TypedDict):
    label: int
    predicted: int
    confidence: float


def _predicted(probabilities: Tensor, data: TensorDataset, sample: int) -> _Predicted:
    confidence, predicted = probabilities[sample].max(0)
    return {"label": int(data.tensors[1][sample]), "predicted": int(predicted), "confidence": float(confidence)}


def _probabilities(model: nn.Module, data: TensorDataset) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(images).softmax(1) for images in data.tensors[0].split(BATCH)])


def _saved_scores(run: Recording, splits: Splits, curvature: Literal["none", "hessian"]) -> Scores:
    file = run.path / "scores" / f"test-{curvature}.safetensors"
    if not file.exists():
        attribute(run, mean_loss(splits.test, "test loss"), curvature=curvature).save(file)
    return Scores.load(file)


def _saved_rows(run: Recording, samples: list[int], curvature: Literal["none", "hessian"]) -> Store:
    """Whole rows of the samples, in a folder that is named for them."""
    name = "-".join(map(str, samples))
    folder = run.path / f"extremes-{curvature}-{zlib.crc32(name.encode()):08x}"
    if (folder / FILE).exists():
        return Store.open(folder, run.model, run.loss)
    return hypergradients(run, samples=sorted(samples), curvature=curvature, store=folder)
