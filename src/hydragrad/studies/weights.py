"""The weights of the default ranking of suspects: a grid, on the twelve settings that they were chosen on.

A combination is judged by its mean AUC over the settings, seed 0 of each. Influence functions spare the rare but right
samples that a network needs most, which the AUC does not see; so for their weight it is also measured how good the
network is when trained without what ranks first, on validation images that did not rank.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from hydragrad.cleaning import Signals, training_signals, without
from hydragrad.cleaning.held_out import influence
from hydragrad.cleaning.suspicion import WEIGHTS, Weights, suspicion
from hydragrad.datasets import load
from hydragrad.progress import bar
from hydragrad.studies.label_errors import checked_by_people, trained_on_test_set
from hydragrad.studies.noisy_run import FOLDS, NoisyRun, Setting
from hydragrad.studies.rankings import Ranking
from hydragrad.studies.rows import append_rows, kept_rows
from hydragrad.studies.table4 import most_suspect

GRID = {
    "contribution": (0.0, 0.25, 0.5, 1.0),
    "above": (0.0, 0.5, 1.0),
    "influence": (0.0, 0.1, 0.3, 1.0),
    "out_of_fold": (0.0, 0.1, 0.3),
}
CHOSEN_ON = (
    *(
        Setting(data="mnist", noise=noise, size=10_000, epochs=20, seed=0)
        for noise in ("0.2", "0.5", "swap-0.3", "cluster-0.1", "copies-0.1", "patch-0.02")
    ),
    *(
        Setting(data="digits", noise=noise, size=1000, epochs=24, seed=0)
        for noise in ("0.2", "0.4", "swap-0.3", "cluster-0.1", "patch-0.02")
    ),
)
LABEL_ERRORS = "mnist-test-label-errors"
"""The twelfth: MNIST's own test set, with what people said of its doubtful labels."""


FILTERED = tuple(each for each in CHOSEN_ON if each.data == "mnist" and each.noise in ("0.2", "0.5", "swap-0.3"))
"""Settings whose network is trained again."""
ROWS_FILE = "weights.jsonl"


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the ranking is made of, and what it should find."""

    name: str
    signals: Signals
    contributions: Tensor
    influence: Tensor | None
    wrong: Tensor

    def suspicion(self, weights: Weights) -> Tensor:
        """The ranking by these weights."""
        return suspicion(self.signals, self.contributions, self.influence, weights)

    def auc(self, weights: Weights) -> float:
        """Probability that a wrong label ranks above a right one."""
        return float(roc_auc_score(self.wrong, self.suspicion(weights)))


@dataclass(frozen=True, kw_only=True)
class FilteringRow:
    """The network trained without what ranks first, as many samples as are wrong.

    Attributes:
        influence: Weight of influence functions; the others are the chosen ones.
        accuracy: On the half of the validation set that did not rank.
    """

    setting: str
    influence: float
    accuracy: float


def reproduce_weights(
    out: Path,
    *,
    settings: Sequence[Setting] = CHOSEN_ON,
    label_errors: bool = True,
    data_dir: Path | None = None,
    workers: int = 1,
) -> pd.DataFrame:
    """Rank with every combination of the grid; runs and signals in `out` are kept.

    Args:
        out: Folder for the runs; that of Table 4 saves training the same runs again.
        settings: Settings with planted noise.
        label_errors: Take in the errors in MNIST's own test set as well.
        data_dir: Where the data sets' files lie.
        workers: Processes that train at the same time for out-of-fold probabilities.

    Returns:
        One row a combination, the best first: its weights, `mean` and the AUC at every setting.
    """
    cases = [_planted(NoisyRun(each, out / each.name, data_dir, workers)) for each in settings]
    if label_errors:
        cases.append(_label_errors(out / LABEL_ERRORS, data_dir, workers))
    combinations = list(_combinations())
    rows = []
    with bar("combinations", len(combinations), unit="combinations") as progress:
        for weights in combinations:
            found = {case.name: case.auc(weights) for case in cases}
            rows.append(asdict(weights) | {"mean": sum(found.values()) / len(found)} | found)
            progress.advance()
    return pd.DataFrame(rows).sort_values("mean", ascending=False, kind="stable", ignore_index=True)


def reproduce_filtering(
    out: Path, *, settings: Sequence[Setting] = FILTERED, data_dir: Path | None = None, workers: int = 1
) -> list[FilteringRow]:
    """Train without what ranks first, for every weight of influence functions on the grid; rows in `out` are kept.

    Args:
        out: Folder for runs and rows.
        settings: Settings with planted noise.
        data_dir: Where the data sets' files lie.
        workers: Processes that train at the same time for out-of-fold probabilities.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / ROWS_FILE
    rows = {(row.setting, row.influence): row for row in kept_rows(FilteringRow, file)}
    jobs = [(each, weight) for each in settings for weight in GRID["influence"]]
    found = []
    with bar("weights of influence functions", len(jobs), unit="trainings") as progress:
        for setting, weight in jobs:
            row = rows.get((setting.name, weight))
            if row is None:
                case = NoisyRun(setting, out / setting.name, data_dir, workers)
                row = FilteringRow(setting=setting.name, influence=weight, accuracy=_filtered(case, weight))
                append_rows(file, [row])
            found.append(row)
            progress.advance()
    return found


def _filtered(case: NoisyRun, weight: float) -> float:
    told = _planted(case, "first half")
    ranking = Ranking(suspicion=told.suspicion(replace(WEIGHTS, influence=weight)))
    return case.trained_on(without(case.train_set, most_suspect(ranking, int(told.wrong.sum()))), case.second_half)


def _planted(case: NoisyRun, held_out: str = "validation") -> Case:
    return Case(
        name=case.setting.name,
        signals=case.signals,
        contributions=case.scores(held_out, "none").row(),
        influence=influence(case.run, case.query(held_out)),
        wrong=case.labels.flipped,
    )


def _label_errors(out: Path, data_dir: Path | None, workers: int) -> Case:
    checked = checked_by_people("mnist", data_dir)
    run, scores, held_out = trained_on_test_set(out, load("mnist", data_dir=data_dir))
    wrong = torch.zeros(len(scores.sample_ids), dtype=torch.bool)
    wrong[checked.index[checked["wrong"]].tolist()] = True
    return Case(
        name=LABEL_ERRORS,
        signals=training_signals(run, folds=FOLDS, workers=workers),
        contributions=scores.row(),
        influence=influence(run, held_out),
        wrong=wrong,
    )


def _combinations() -> Iterator[Weights]:
    """Of the grid; where contributions count nothing, it does not matter from where on."""
    for values in product(*GRID.values()):
        weights = Weights(**dict(zip(GRID, values, strict=True)))
        if weights.contribution or weights.above == GRID["above"][0]:
            yield weights
