"""The weights of the default ranking of suspects: a grid, on the settings that they were chosen on.

A combination is measured by its mean AUC over the settings, seed 0 of each. Influence functions spare the rare but
right samples that a network needs most, which the AUC does not show; so for their weight the network is also trained
without what ranks first, and measured on validation images that did not rank.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from sklearn.metrics import roc_auc_score
from torch import Tensor

from hydragrad.cleaning import Signals, training_signals, without
from hydragrad.cleaning.held_out import influence
from hydragrad.cleaning.suspicion import WEIGHTS, Weights, suspicion
from hydragrad.cli.console import columns, percent, say, write_json
from hydragrad.cli.options import DataDir, Json, Quiet
from hydragrad.datasets import load
from hydragrad.progress import bar, quiet
from studies.label_errors import checked_by_people, trained_on_test_set
from studies.noisy_run import NoisyRun, Setting
from studies.rankings import Ranking, most_suspect
from studies.rows import append_rows, saved_rows

GRID = {
    "contribution": (0.0, 0.25, 0.35, 0.5),
    "above": (0.0, 0.5, 1.0),
    "influence": (0.0, 0.1, 0.4, 0.5, 1.0, None),
}
"""Influence None is by the share of labels that training disagrees with."""
BY_SHARE = "by share"
FILTERED_INFLUENCE = (0.0, 0.1, 0.3, 1.0)
CHOSEN_ON = (
    *(
        Setting(data="digits", noise=noise, size=1000, epochs=24, seed=seed)
        for seed in (0, 1)
        for noise in ("0.1", "0.4", "0.8", "swap-0.3", "cluster-0.1", "copies-0.1", "patch-0.02")
        if (noise, seed) != ("0.1", 1)
    ),
    *(
        Setting(data="mnist", noise=noise, size=10_000, epochs=20, seed=1)
        for noise in ("0.5", "cluster-0.1", "patch-0.02")
    ),
)
LABEL_ERRORS = "mnist-test-label-errors"
"""One more: MNIST's own test set, with what people said of its doubtful labels."""
FILTERED = tuple(
    Setting(data="mnist", noise=noise, size=10_000, epochs=20, seed=0) for noise in ("0.2", "0.5", "swap-0.3")
)
"""Settings whose network is trained again."""
ROWS_FILE = "weights.jsonl"


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the ranking is computed from, and what it should find."""

    name: str
    signals: Signals
    contributions: Tensor
    influence: Tensor | None
    wrong: Tensor

    def suspicion(self, weights: Weights) -> Tensor:
        """Return the ranking by these weights."""
        return suspicion(self.signals, self.contributions, self.influence, weights)

    def auc(self, weights: Weights) -> float:
        """Return the probability that a wrong label ranks above a right one."""
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
    out: Path, *, settings: Sequence[Setting] = CHOSEN_ON, label_errors: bool = True, data_dir: Path | None = None
) -> pd.DataFrame:
    """Rank with every combination of the grid; runs and signals in `out` are reused.

    Args:
        out: Folder for the runs; that of `ranking` saves training the same runs again.
        settings: Settings with planted noise.
        label_errors: Include the errors in MNIST's own test set.
        data_dir: Folder with the data sets' files.

    Returns:
        One row a combination, the best first: its weights, `mean` and the AUC at every setting.
    """
    cases = [_planted(NoisyRun(setting, out / setting.name, data_dir, 1)) for setting in settings]
    if label_errors:
        cases.append(_label_errors(out / LABEL_ERRORS, data_dir))
    combinations = list(_combinations())
    rows = []
    with bar("combinations", len(combinations), unit="combinations") as progress:
        for weights in combinations:
            aucs = {case.name: case.auc(weights) for case in cases}
            rows.append({**_on_grid(weights), "mean": sum(aucs.values()) / len(aucs), **aucs})
            progress.advance()
    return pd.DataFrame(rows).sort_values("mean", ascending=False, kind="stable", ignore_index=True)


def reproduce_filtering(
    out: Path, *, settings: Sequence[Setting] = FILTERED, data_dir: Path | None = None
) -> list[FilteringRow]:
    """Train without what ranks first, for every weight of influence functions on the grid; rows in `out` are reused.

    Args:
        out: Folder for runs and rows.
        settings: Settings with planted noise.
        data_dir: Folder with the data sets' files.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / ROWS_FILE
    rows = {(row.setting, row.influence): row for row in saved_rows(FilteringRow, file)}
    jobs = [(setting, weight) for setting in settings for weight in FILTERED_INFLUENCE]
    measured = []
    with bar("weights of influence functions", len(jobs), unit="trainings") as progress:
        for setting, weight in jobs:
            row = rows.get((setting.name, weight))
            if row is None:
                case = NoisyRun(setting, out / setting.name, data_dir, 1)
                row = FilteringRow(setting=setting.name, influence=weight, accuracy=_filtered(case, weight))
                append_rows(file, [row])
            measured.append(row)
            progress.advance()
    return measured


def _filtered(case: NoisyRun, weight: float) -> float:
    half = _planted(case, "first half")
    ranking = Ranking(suspicion=half.suspicion(replace(WEIGHTS, influence=weight)))
    return case.trained_on(without(case.train_set, most_suspect(ranking, int(half.wrong.sum()))), case.second_half)


def _planted(case: NoisyRun, held_out: str = "validation") -> Case:
    return Case(
        name=case.setting.name,
        signals=training_signals(case.run),
        contributions=case.scores(held_out, "none").row(),
        influence=influence(case.run, case.query(held_out)),
        wrong=case.labels.flipped,
    )


def _label_errors(out: Path, data_dir: Path | None) -> Case:
    checked = checked_by_people("mnist", data_dir)
    run, scores, held_out = trained_on_test_set(out, load("mnist", data_dir=data_dir))
    wrong = torch.zeros(len(scores.sample_ids), dtype=torch.bool)
    wrong[checked.index[checked["wrong"]].tolist()] = True
    return Case(
        name=LABEL_ERRORS,
        signals=training_signals(run),
        contributions=scores.row(),
        influence=influence(run, held_out),
        wrong=wrong,
    )


def _combinations() -> Iterator[Weights]:
    """The combinations of the grid; without contributions, their threshold does not matter."""
    for values in product(*GRID.values()):
        contribution, above, influence = values
        weights = Weights(contribution=contribution or 0.0, above=above or 0.0, influence=influence)
        if weights.contribution or weights.above == GRID["above"][0]:
            yield weights


def _on_grid(weights: Weights) -> dict[str, float | str]:
    values = {name: getattr(weights, name) for name in GRID}
    return {name: BY_SHARE if value is None else float(value) for name, value in values.items()}


def weights(
    label_errors: Annotated[bool, typer.Option(help="Include the errors in MNIST's own test set.")] = True,
    filtering: Annotated[
        bool, typer.Option("--filtering", help="Instead: train without what ranks first, by weight of influence.")
    ] = False,
    shown: Annotated[int, typer.Option(min=1, help="Combinations to print.")] = 8,
    out: Annotated[Path, typer.Option(help="Folder for runs; ranking's saves trainings.")] = Path("runs/ranking"),
    csv: Annotated[Path | None, typer.Option(dir_okay=False, help="File of all combinations.")] = None,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """The weights of the ranking that `hydragrad clean` uses.

    A grid, on the settings that they were chosen on. Needs seventeen runs with their signals, some 25 minutes of
    processor time; they are saved. With --filtering three runs and twelve trainings.

    Example: python -m studies weights --csv weights.csv
    """
    if filtering:
        _show_filtering(out, data_dir, json, silent)
        return
    with quiet(silent):
        combinations = reproduce_weights(out, label_errors=label_errors, data_dir=data_dir)
    file = csv or out / "weights.csv"
    combinations.to_csv(file, index=False, float_format="%.5g")
    names = list(GRID)
    chosen = (combinations[names] == pd.Series(_on_grid(WEIGHTS))).all(axis=1)
    table = combinations.assign(place=combinations.index + 1, note=chosen.map({True: "chosen", False: ""}))
    table.loc[
        (combinations[names] == pd.Series(_on_grid(Weights(contribution=0, above=0, influence=0)))).all(axis=1), "note"
    ] = "margin alone"
    lines = [
        [row["note"], str(row["place"]), *(str(row[name]) for name in names), f"{row['mean']:.4f}"]
        for row in table[(table["place"] <= shown) | (table["note"] != "")].to_dict("records")
    ]
    columns(f"Mean AUC of {len(combinations)} combinations", ["", "place", *names, "mean AUC"], lines, left=[""])
    say(f"all of them: {file}")
    write_json(
        json, {"chosen": float(combinations["mean"][chosen].iloc[0]), "best": float(combinations["mean"].iloc[0])}
    )


def _show_filtering(out: Path, data_dir: Path | None, json: Path | None, silent: bool) -> None:
    with quiet(silent):
        rows = reproduce_filtering(out, data_dir=data_dir)
    frame = pd.DataFrame(map(asdict, rows)).pivot(index="influence", columns="setting", values="accuracy")
    lines = [[f"{weight:g}", *map(percent, line), percent(line.mean())] for weight, line in frame.iterrows()]
    columns("Validation accuracy after training again", ["influence", *frame.columns, "mean"], lines)
    write_json(json, {f"{row.setting} {row.influence:g}": row.accuracy for row in rows})
