"""The paper's Table 4: label noise, found by several rankings; the network trained again without what they name.

One setting is a data set, a kind of noise, a size and a seed. A run is recorded on the noisy labels; every method
ranks the training samples from it; the network is trained from a fresh initialisation on what each method leaves.
Rankings and every single training are kept, so that an interrupted study goes on after the last of them.

Source: Chen et al. 2021, section 4.3 and Table 4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hydragrad.attribution import attribute
from hydragrad.cleaning import (
    Labels,
    Signals,
    area_under_roc,
    flip_labels,
    found_in_first,
    relabelled,
    save_labels,
    suspects,
    swap_labels,
    training_signals,
    without,
)
from hydragrad.datasets import HUMAN, Splits, human_labels, load
from hydragrad.errors import DataError
from hydragrad.recording import Recording
from hydragrad.scores import Curvature, Scores, mean_loss
from hydragrad.studies.baselines import confident_learning, influence_functions, tracin
from hydragrad.studies.recipes import RECIPES, Start, fresh, recipe_loss
from hydragrad.studies.rows import append_rows, kept_rows
from hydragrad.training import Plan, fit, mean_loss_and_accuracy, train

Measured = dict[str, float | int | None]

ROWS_FILE = "rows.jsonl"
SIMILAR: dict[str, tuple[tuple[int, int], ...]] = {
    "mnist": ((4, 9), (3, 5), (1, 7), (2, 6), (0, 8)),
    "fashion": ((0, 6), (2, 4), (5, 7), (1, 3), (8, 9)),
    "cifar10": ((3, 5), (1, 9), (0, 8), (4, 7), (2, 6)),
    "digits": ((4, 9), (3, 5), (1, 7), (2, 6), (0, 8)),
}
"""Classes that are taken for each other."""

FOLDS = 2
DAMPING, ITERATIONS = 0.01, 50
"""Of influence functions; docs/results.md says how they were chosen."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One noisy training set and one seed.

    Attributes:
        data: Name of the data set.
        noise: Share of uniform flips ("0.5"), share of swaps between similar classes ("swap-0.3"), or what people
            answered ("human-worst", cifar10 only).
        size: Training samples, or None for all.
        epochs: Passes over them.
        seed: Of the noise, the initialisation and the order.
        model: Name of the model.
        lr: Initial rate, where it is not the recipe's.
    """

    data: str
    noise: str
    size: int | None
    epochs: int
    seed: int
    model: str = "lenet5"
    lr: float | None = None

    @property
    def name(self) -> str:
        """Folder of the setting."""
        rate = "" if self.lr is None else f"-lr{self.lr:g}"
        return f"{self.data}-{self.noise}-{self.size or 'all'}-{self.model}-e{self.epochs}{rate}-s{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """What a method says of the training labels.

    Attributes:
        suspicion: Higher is more suspect, float64 (samples,).
        suspects: Which labels it takes for wrong, not knowing how many are, bool (samples,); None if it can't say.
        suggested: What it would write instead, int64 (samples,); None if it can't say.
    """

    suspicion: Tensor
    suspects: Tensor | None = None
    suggested: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement; what does not apply is None.

    Attributes:
        action: "rank", or what was done before training again: "nothing", "true labels", "remove known share",
            "remove suspects", "relabel suspects".
        auc: Probability that a wrong label ranks above a right one.
        found_10, found_20: Share of the wrong labels in the first 10 and 20 %.
        changed: Samples removed or relabelled.
        accuracy: On the test set, after training again.
    """

    setting: str
    method: str
    action: str
    wrong: int
    samples: int
    auc: float | None = None
    found_10: float | None = None
    found_20: float | None = None
    changed: int | None = None
    accuracy: float | None = None


def noisy_labels(setting: Setting, splits: Splits, data_dir: Path | None) -> Labels:
    """Labels of the training set, as the setting's noise has them.

    Raises:
        DataError: Noise that is not known.
    """
    true, kind = splits.train.tensors[1], setting.noise
    if kind.startswith("human-") and setting.data == "cifar10" and kind[6:] in HUMAN:
        return Labels(human_labels(kind[6:], data_dir=data_dir)[splits.positions], true.clone())
    swap = kind.startswith("swap-")
    try:
        share = float(kind.removeprefix("swap-"))
    except ValueError:
        raise DataError(
            f"Noise is a share of uniform flips (0.5), of swaps between similar classes (swap-0.3), or, of cifar10, "
            f"{', '.join(f'human-{name}' for name in HUMAN)}; {kind!r} came."
        ) from None
    if swap:
        return swap_labels(true, share, pairs=SIMILAR[setting.data], seed=setting.seed)
    return flip_labels(true, share, classes=len(splits.classes), seed=setting.seed)


class Case:
    """A setting with its recorded run; what methods share is computed when first asked for."""

    def __init__(self, setting: Setting, folder: Path, data_dir: Path | None, workers: int) -> None:
        self.setting, self.folder, self._workers = setting, folder, workers
        self.splits = load(setting.data, data_dir=data_dir, train_size=setting.size, seed=setting.seed)
        self.labels = noisy_labels(setting, self.splits, data_dir)
        self.train_set = TensorDataset(self.splits.train.tensors[0], self.labels.given)
        self.loss = recipe_loss(setting.data)

    def start(self, seed: int) -> Start:
        """A fresh initialisation."""
        return fresh(self.splits, self.setting.model, seed=seed, lr=self.setting.lr)

    def monitor(self, model: nn.Module) -> dict[str, float]:
        """What a plateau schedule looks at."""
        if RECIPES[self.setting.data].plateau_factor is None:
            return {}
        return {"validation_loss": mean_loss_and_accuracy(model, self.loss, self.splits.validation)[0]}

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

    def scores(self, held_out: str, curvature: Curvature) -> Scores:
        """Contributions to the loss on validation or test set, kept with the run."""
        file = self.folder / "scores" / f"{held_out}-{curvature}.safetensors"
        if not file.exists():
            query = mean_loss(getattr(self.splits, held_out), name=f"{held_out} loss")
            attribute(self.run, query, curvature=curvature, labels=True).save(file)
        return Scores.load(file)

    def trained_on(self, train_set: TensorDataset) -> float:
        """Test accuracy after training from another initialisation."""
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
        accuracy = mean_loss_and_accuracy(start.model, self.loss, self.splits.test)[1]
        assert accuracy is not None
        return accuracy


def _contributions(case: Case, held_out: str, curvature: Curvature) -> Ranking:
    scores = case.scores(held_out, curvature)
    suggested = scores.suggested_labels()
    return Ranking(
        suspicion=-scores.row(),
        suspects=(scores.row() < 0) & (suggested != case.labels.given),
        suggested=suggested,
    )


def _predicted(suspicion: Tensor, probabilities: Tensor, given: Tensor) -> Ranking:
    suggested = probabilities.argmax(1)
    return Ranking(suspicion=suspicion, suspects=suggested != given, suggested=suggested)


def _small_loss(case: Case) -> Ranking:
    signals, given = case.signals, case.labels.given
    return _predicted(-signals.at_end.gather(1, given[:, None])[:, 0].log(), signals.at_end, given)


def _margin(case: Case) -> Ranking:
    return _predicted(-case.signals.margin, case.signals.over_training, case.labels.given)


def _self_confidence(case: Case) -> Ranking:
    out, given = case.signals.out_of_fold, case.labels.given
    assert out is not None
    return _predicted(-out.gather(1, given[:, None])[:, 0], out, given)


def _confident_learning(case: Case) -> Ranking:
    out, given = case.signals.out_of_fold, case.labels.given
    assert out is not None
    found = confident_learning(given, out)
    taken = torch.zeros(len(given), dtype=torch.bool)
    taken[found.suspects] = True
    return Ranking(suspicion=found.suspicion, suspects=taken, suggested=out.argmax(1))


def _default(case: Case) -> Ranking:
    frame = suspects(case.run, case.scores("validation", "none")).sort_values("sample")
    return Ranking(
        suspicion=torch.from_numpy(frame["suspicion"].to_numpy(copy=True)),
        suspects=torch.from_numpy((frame["suggested_label"] != frame["given_label"]).to_numpy(copy=True)),
        suggested=torch.from_numpy(frame["suggested_label"].to_numpy(copy=True)),
    )


def _influence(case: Case) -> Ranking:
    found = influence_functions(case.run, mean_loss(case.splits.validation), damping=DAMPING, iterations=ITERATIONS)[0]
    return Ranking(suspicion=-found, suspects=found < 0)


def _tracin(case: Case) -> Ranking:
    found = tracin(case.run, mean_loss(case.splits.validation))[0]
    return Ranking(suspicion=-found, suspects=found < 0)


METHODS: dict[str, Callable[[Case], Ranking]] = {
    "hydragrad": _default,
    "HYDRA": lambda case: _contributions(case, "validation", "none"),
    "HYDRA (test set)": lambda case: _contributions(case, "test", "none"),
    "confident learning": _confident_learning,
    "small loss": _small_loss,
    "influence functions": _influence,
    "TracIn": _tracin,
    "margin over training": _margin,
    "self-confidence": _self_confidence,
    "ggn": lambda case: _contributions(case, "validation", "ggn"),
    "hessian": lambda case: _contributions(case, "validation", "hessian"),
}
FILTERING = ("hydragrad", "HYDRA", "confident learning", "small loss", "influence functions")
"""Methods that the network is trained again after, unless others are asked for."""


def reproduce_table4(
    out: Path,
    setting: Setting,
    *,
    data_dir: Path | None = None,
    methods: Sequence[str] = tuple(METHODS),
    filtering: Sequence[str] = FILTERING,
    workers: int = 1,
) -> list[Row]:
    """Measure one setting; runs, rankings and single trainings in `out` are kept.

    Args:
        out: Folder for the runs and the rows.
        setting: Data, noise and seed.
        data_dir: Where the data sets' files lie.
        methods: Some of `METHODS`.
        filtering: Those of them that the network is trained again after.
        workers: Processes that train at the same time for out-of-fold probabilities.

    Raises:
        DataError: Unknown noise.
        Unsupported: A baseline's library is not installed.
    """
    case = Case(setting, out / setting.name, data_dir, workers)
    file = case.folder / ROWS_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = {(row.method, row.action): row for row in kept_rows(Row, file)}
    common = {"setting": setting.name, "wrong": int(case.labels.flipped.sum()), "samples": len(case.train_set)}

    def measured(method: str, action: str, measure: Callable[[], Measured]) -> None:
        if (method, action) not in rows:
            rows[method, action] = Row(method=method, action=action, **common, **measure())  # type: ignore[arg-type]
            append_rows(file, [rows[method, action]])

    measured("no filtering", "nothing", lambda: {"accuracy": case.trained_on(case.train_set)})
    measured("true labels", "nothing", lambda: {"accuracy": case.trained_on(case.splits.train)})
    for method in methods:
        measured(method, "rank", partial(_rank, case, method))
    for method in methods:
        if method in filtering:
            for action, train_set, changed in _cleaned(case, _ranking(case, method)):
                measured(method, action, partial(_train_again, case, train_set, changed))
    return list(rows.values())


def _ranking(case: Case, method: str) -> Ranking:
    file = case.folder / "rankings" / f"{method.replace(' ', '-')}.safetensors"
    if not file.exists():
        found = METHODS[method](case)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value for name, value in vars(found).items() if value is not None}, file)
    return Ranking(**load_file(file))


def _rank(case: Case, method: str) -> Measured:
    return _quality(_ranking(case, method), case.labels)


def _train_again(case: Case, train_set: TensorDataset, changed: int) -> Measured:
    return {"changed": changed, "accuracy": case.trained_on(train_set)}


def _quality(ranking: Ranking, labels: Labels) -> Measured:
    frame = pd.DataFrame({"suspicion": ranking.suspicion, "flipped": labels.flipped})
    frame = frame.sort_values("suspicion", kind="stable", ascending=False)
    return {
        "auc": area_under_roc(frame),
        "found_10": found_in_first(frame, 0.1),
        "found_20": found_in_first(frame, 0.2),
    }


def _cleaned(case: Case, ranking: Ranking) -> list[tuple[str, TensorDataset, int]]:
    """What each action leaves to train on: its name, the training set, the number of samples changed."""
    wrong = int(case.labels.flipped.sum())
    found = []
    if wrong:
        worst = ranking.suspicion.argsort(descending=True, stable=True)[:wrong].tolist()
        found.append(("remove known share", without(case.train_set, worst), wrong))
    if ranking.suspects is not None:
        taken = ranking.suspects.nonzero().flatten().tolist()
        if taken and len(taken) < len(case.train_set):
            found.append(("remove suspects", without(case.train_set, taken), len(taken)))
            if ranking.suggested is not None:
                changed = relabelled(case.train_set, taken, ranking.suggested[taken].tolist())
                found.append(("relabel suspects", changed, len(taken)))
    return found  # type: ignore[return-value]  # a TensorDataset stays one


COLUMNS = ("remove known share", "remove suspects", "relabel suspects")


def summary(rows: Sequence[Row]) -> pd.DataFrame:
    """One line a method: quality of its ranking and accuracy after each action, mean and spread over the seeds."""
    headings = ["method", "AUC", "found in 10 %", "found in 20 %", *COLUMNS]
    lines = []
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        ranks = [row for row in own if row.action == "rank"]
        cells = [_spread([getattr(row, name) for row in ranks], 3) for name in ("auc", "found_10", "found_20")]
        for action in COLUMNS:
            done = [row for row in own if row.action in (action, "nothing")]
            cells.append(_spread([None if row.accuracy is None else 100 * row.accuracy for row in done], 2))
        lines.append([method, *cells])
    return pd.DataFrame(lines, columns=headings)


def _spread(values: Sequence[float | None], digits: int) -> str:
    """Mean, and standard deviation if there are several."""
    known = pd.Series([value for value in values if value is not None], dtype=float)
    if known.empty:
        return "-"
    mean = f"{known.mean():.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ± {known.std():.{digits}f}"
