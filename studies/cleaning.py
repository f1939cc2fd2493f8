"""What `clean` does in settings with known errors: whether what it recommends is better than the labels as given.

Half of the validation set ranks, the other half recommends, and the test set measures. Of each setting the rows hold
every treatment, the recommended one, and the network trained on the true labels, from the same start.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from hydragrad.cleaning import AS_GIVEN, Remedy, clean, suspects
from hydragrad.cleaning.signals import model_with
from hydragrad.cleaning.suspects import WRONG_SHARE
from hydragrad.cli.console import columns, percent, write_json
from hydragrad.cli.options import DataDir, Json, Quiet
from hydragrad.progress import quiet
from hydragrad.training import mean_loss_and_accuracy
from studies.noisy_run import NoisyRun, Setting
from studies.rows import append_rows, saved_rows

ROWS_FILE = "cleaning.jsonl"
TRUE = "true labels"
SETTINGS = (
    *(("mnist", noise, 8) for noise in ("0.02", "0.1", "0.3", "0.5", "swap-0.3", "cluster-0.1")),
    *(("fashion", noise, 8) for noise in ("0.1", "0.4")),
    ("cifar10", "human-worst", 20),
)
"""Data, noise and epochs; 8,000 training samples each."""


@dataclass(frozen=True, kw_only=True)
class CleaningRow:
    """One treatment in one setting.

    Attributes:
        setting, seed: Which.
        treatment: What was done; "labels as given" where nothing was.
        changed: Samples that it treats.
        recommended: Whether it is what `clean` recommends.
        chosen_by: Accuracy on the half of the validation set that chooses.
        accuracy: On the test set.
        wrong: Share of wrong labels.
        low, high: Between which shares it was said to be.
    """

    setting: str
    seed: int
    treatment: str
    changed: int
    recommended: bool
    chosen_by: float
    accuracy: float
    wrong: float
    low: float
    high: float


def measure(out: Path, setting: Setting, *, data_dir: Path | None = None) -> list[CleaningRow]:
    """Measure one setting; the run, its retrainings and the rows in `out` are reused.

    Args:
        out: Folder for runs and rows.
        setting: Data, noise and seed.
        data_dir: Folder with the data sets' files.
    """
    file, name = out / ROWS_FILE, setting.name.removesuffix(f"-s{setting.seed}")
    out.mkdir(parents=True, exist_ok=True)
    rows = [row for row in saved_rows(CleaningRow, file) if (row.setting, row.seed) == (name, setting.seed)]
    if not rows:
        rows = list(_measured(NoisyRun(setting, out / setting.name, data_dir, 1), name))
        append_rows(file, rows)
    return rows


def _measured(case: NoisyRun, name: str) -> Iterator[CleaningRow]:
    query, run, labels = case.query("first half"), case.run, case.labels
    ranked = suspects(run, case.scores("first half", "none"), held_out=query)
    wrong = labels.flipped.nonzero().flatten().tolist()
    truth = Remedy(name=TRUE, labels={i: int(labels.true[i]) for i in wrong})
    result = clean(run, ranked, case.second_half)
    reached = clean(run, ranked, case.second_half, treatments=[truth])
    share = ranked.attrs[WRONG_SHARE]
    for outcome in (*result.outcomes, reached.outcomes[-1]):
        accuracy = mean_loss_and_accuracy(model_with(run, outcome.state), case.loss, case.splits.test)[1]
        assert accuracy is not None and outcome.accuracy is not None
        yield CleaningRow(
            setting=name,
            seed=case.setting.seed,
            treatment=outcome.remedy.name,
            changed=outcome.remedy.changed,
            recommended=outcome.remedy.name == result.recommended.remedy.name,
            chosen_by=outcome.accuracy,
            accuracy=accuracy,
            wrong=len(wrong) / len(ranked),
            low=share["low"],
            high=share["high"],
        )


def table(rows: Sequence[CleaningRow]) -> tuple[list[str], list[list[str]]]:
    """Head and lines: one setting a line, means over seeds, and what was recommended how often."""
    lines = []
    for setting in dict.fromkeys(row.setting for row in rows):
        mine = [row for row in rows if row.setting == setting]
        seeds = list(dict.fromkeys(row.seed for row in mine))
        given, best, true = ([_accuracy(mine, seed, which) for seed in seeds] for which in ("given", "best", "true"))
        gains = np.array(best) - np.array(given)
        share = [next((row.wrong, row.low, row.high) for row in mine if row.seed == seed) for seed in seeds]
        wrong, low, high = np.mean(share, axis=0)
        lines.append(
            [
                setting,
                f"{percent(wrong)}: {percent(low)} to {percent(high)}",
                *(percent(float(np.mean(values))) for values in (given, best, true)),
                f"{100 * gains.mean():+.2f} ({100 * gains.min():+.2f} to {100 * gains.max():+.2f})",
                ", ".join(_kinds(mine)),
            ]
        )
    head = [
        "setting",
        "wrong: said to be",
        "as given",
        "recommended",
        "true labels",
        "gain in points",
        "recommended was",
    ]
    return head, lines


def _accuracy(rows: Sequence[CleaningRow], seed: int, which: str) -> float:
    of_seed = [row for row in rows if row.seed == seed]
    if which == "best":
        return next(row.accuracy for row in of_seed if row.recommended)
    return next(row.accuracy for row in of_seed if row.treatment == {"given": AS_GIVEN, "true": TRUE}[which])


def _kinds(rows: Sequence[CleaningRow]) -> Iterator[str]:
    """What was recommended, and how often."""
    recommended = [row.treatment for row in rows if row.recommended]
    for kind in ("relabelled", "removed", "down-weighted", AS_GIVEN):
        of_kind = [name for name in recommended if kind in name]
        recommended = [name for name in recommended if kind not in name]
        if of_kind:
            yield f"{kind} {len(of_kind)}"


def cleaning(
    first_seed: Annotated[int, typer.Option(help="The rules were chosen on seed 0.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="How many.")] = 3,
    train_size: Annotated[int, typer.Option(min=100, help="Training samples.")] = 8_000,
    only: Annotated[str | None, typer.Option(help="One data set: mnist, fashion or cifar10.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for runs and rows.")] = Path("runs/cleaning"),
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Whether what `hydragrad clean` recommends is better than the labels as given.

    Example: python -m studies cleaning --seeds 1 --only mnist
    """
    rows: list[CleaningRow] = []
    with quiet(silent):
        for seed in range(first_seed, first_seed + seeds):
            for data, noise, epochs in SETTINGS:
                if only in (None, data):
                    setting = Setting(data=data, noise=noise, size=train_size, epochs=epochs, seed=seed)
                    rows += measure(out, setting, data_dir=data_dir)
    columns(f"What clean recommends, test accuracy, {seeds} seeds", *table(rows))
    write_json(json, {"rows": [vars(row) for row in rows]})
