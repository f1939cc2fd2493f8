"""How well `hg.suspects` ranks, next to every signal that it is made of.

A setting is a data set, something wrong in it, and a seed. All rankings come from the same recorded run and the same
held-out data. "Before" is the ranking as it was until its checkpoints and weights were chosen anew: margin over
checkpoints evenly by steps, 0.5 of contributions, 0.1 of influence at the trained weights (times the growth).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from sklearn.metrics import roc_auc_score
from torch import Tensor

from hydragrad.attribution.influence import influence_functions
from hydragrad.cleaning import Signals, training_signals
from hydragrad.cleaning.held_out import influence
from hydragrad.cleaning.suspicion import Weights, against, suspicion
from hydragrad.cli.console import columns, write_json
from hydragrad.cli.options import DataDir, Json, Quiet, named_among
from hydragrad.datasets import load
from hydragrad.progress import bar, quiet
from hydragrad.replay import Recording
from hydragrad.scores import Query
from studies.label_errors import checked_by_people, trained_on_test_set
from studies.noisy_run import NoisyRun, Setting
from studies.rows import append_rows, saved_rows

ROWS_FILE = "ranking.jsonl"
DIGITS = ("0.1", "0.4", "0.8", "swap-0.3", "cluster-0.1", "copies-0.1", "patch-0.02")
MNIST = ("0.1", "0.5", "0.8", "swap-0.3", "cluster-0.1", "copies-0.1", "patch-0.02")
NOISES = {"digits": DIGITS, "mnist": MNIST}
LABEL_ERRORS = "mnist-test-label-errors"
SIZES = {"digits": (1000, 24), "mnist": (10_000, 20)}
"""Training samples and epochs."""
BEFORE = Weights(contribution=0.5, influence=0.1)


@dataclass(frozen=True, kw_only=True)
class Row:
    """AUC of one ranking: the probability that a wrong sample ranks above a right one."""

    setting: str
    ranking: str
    auc: float
    wrong: int


def reproduce_ranking(out: Path, settings: Sequence[Setting], *, data_dir: Path | None = None) -> list[Row]:
    """Measure settings; runs, signals and rows in `out` are reused."""
    out.mkdir(parents=True, exist_ok=True)
    rows = saved_rows(Row, out / ROWS_FILE)
    done = {row.setting for row in rows}
    with bar("settings", len(settings), unit="settings") as progress:
        for setting in settings:
            if setting.name not in done:
                case = NoisyRun(setting, out / setting.name, data_dir, 1)
                contributions = case.scores("validation", "none").row()
                query, wrong = case.query("validation"), case.labels.flipped
                rows += _measured(setting.name, case.run, contributions, query, wrong, out)
            progress.advance()
    return [row for row in rows if row.setting in {setting.name for setting in settings}]


def reproduce_label_errors(out: Path, *, data_dir: Path | None = None) -> list[Row]:
    """The same of the errors in MNIST's own test set."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [row for row in saved_rows(Row, out / ROWS_FILE) if row.setting == LABEL_ERRORS]
    if rows:
        return rows
    checked = checked_by_people("mnist", data_dir)
    run, scores, query = trained_on_test_set(out / LABEL_ERRORS, load("mnist", data_dir=data_dir))
    wrong = torch.zeros(len(scores.sample_ids), dtype=torch.bool)
    wrong[checked.index[checked["wrong"]].tolist()] = True
    return _measured(LABEL_ERRORS, run, scores.row(), query, wrong, out)


def _measured(name: str, run: Recording, contributions: Tensor, query: Query, wrong: Tensor, out: Path) -> list[Row]:
    signals, averaged = training_signals(run), influence(run, query)
    at_end = influence_functions(run, query)[0]
    rankings = _rankings(signals, contributions, averaged, at_end)
    rows = [
        Row(setting=name, ranking=ranking, auc=float(roc_auc_score(wrong, values)), wrong=int(wrong.sum()))
        for ranking, values in rankings.items()
    ]
    append_rows(out / ROWS_FILE, rows)
    return rows


def _rankings(signals: Signals, contributions: Tensor, averaged: Tensor | None, at_end: Tensor) -> dict[str, Tensor]:
    assert averaged is not None and signals.early is not None
    given = signals.given
    loss = -signals.at_end.gather(1, given[:, None])[:, 0].log()
    return {
        "hydragrad": suspicion(signals, contributions, averaged),
        "before": suspicion(replace(signals, early=None), contributions, at_end, BEFORE),
        "margin, early checkpoints": against(signals.early, given),
        "margin, evenly": against(signals.over_training, given),
        "loss": loss,
        "contributions": -contributions,
        "influence, averaged": -averaged,
        "influence, at the end": -at_end,
    }


def ranking(
    data: Annotated[str, typer.Option(help=f"Data sets, with commas between: {', '.join(NOISES)}.")] = "digits",
    seeds: Annotated[int, typer.Option(min=1, help="How many: first, first + 1, ...")] = 2,
    first_seed: Annotated[int, typer.Option(min=0, help="The first one.")] = 2,
    noise: Annotated[
        str, typer.Option(help="What is wrong, with commas between, as table4 takes it; all if empty.")
    ] = "",
    label_errors: Annotated[
        bool, typer.Option("--label-errors", help="Also the errors in MNIST's own test set.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for runs and rows.")] = Path("runs/ranking"),
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """AUC of the default ranking of suspects, and of every signal in it.

    If interrupted, the same command resumes after the last setting.

    Example: python -m studies ranking --data digits --seeds 1
    """
    settings = []
    for name in named_among(data, NOISES, "--data"):
        size, epochs = SIZES[name]
        kinds = named_among(noise, NOISES[name], "--noise") if noise else NOISES[name]
        settings += [
            Setting(data=name, noise=kind, size=size, epochs=epochs, seed=seed)
            for seed in range(first_seed, first_seed + seeds)
            for kind in kinds
        ]
    with quiet(silent):
        rows = reproduce_ranking(out, settings, data_dir=data_dir)
        rows += reproduce_label_errors(out, data_dir=data_dir) if label_errors else []
    frame = pd.DataFrame(map(vars, rows)).pivot(index="ranking", columns="setting", values="auc")
    frame = frame.loc[list(dict.fromkeys(row.ranking for row in rows))]
    lines = [[str(setting), *(f"{value:.4f}" for value in frame[setting])] for setting in frame]
    lines.append(["mean", *(f"{value:.4f}" for value in frame.mean(axis=1))])
    columns("AUC of rankings", ["setting", *frame.index], lines, left=("setting",))
    write_json(json, {"rows": [vars(row) for row in rows]})
