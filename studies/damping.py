"""The damping of influence functions in Table 4: searched as a user could, without knowing what is wrong.

Half of the validation set ranks, the network is trained again without the share that is known to be wrong, and the
other half measures how well. The choice made at one setting is used at all others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from hydragrad.cleaning import without
from hydragrad.cli.console import columns, percent, write_json
from hydragrad.cli.options import DataDir, Json, Quiet
from hydragrad.datasets import DATASETS
from hydragrad.experiments.recipes import RECIPES
from hydragrad.progress import bar, quiet
from studies.noisy_run import NoisyRun, Setting
from studies.rankings import influence_ranking, most_suspect, quality
from studies.rows import append_rows, saved_rows

ROWS_FILE = "damping.jsonl"
DAMPINGS = (0.001, 0.01, 0.1, 1.0)


@dataclass(frozen=True, kw_only=True)
class DampingRow:
    """One damping.

    Attributes:
        accuracy: On the half of the validation set that did not rank, after training again.
        auc: Probability that a wrong label ranks above a right one; not used to choose.
    """

    setting: str
    damping: float
    accuracy: float
    auc: float


def reproduce_damping(
    out: Path, setting: Setting, *, dampings: Sequence[float] = DAMPINGS, data_dir: Path | None = None
) -> list[DampingRow]:
    """Measure every damping; the run and the rows in `out` are reused.

    Args:
        out: Folder for the run and the rows; that of Table 4 saves training the run again.
        setting: Data, noise and seed.
        dampings: Candidates.
        data_dir: Folder with the data sets' files.
    """
    case = NoisyRun(setting, out / setting.name, data_dir, 1)
    file = out / ROWS_FILE
    out.mkdir(parents=True, exist_ok=True)
    rows = [row for row in saved_rows(DampingRow, file) if row.setting == setting.name]
    missing = [damping for damping in dampings if damping not in {row.damping for row in rows}]
    with bar("dampings", len(missing), unit="dampings") as progress:
        for damping in missing:
            rows.append(_measured(case, damping))
            append_rows(file, rows[-1:])
            progress.advance()
    return sorted(rows, key=lambda row: row.damping)


def _measured(case: NoisyRun, damping: float) -> DampingRow:
    ranking = influence_ranking(case, case.query("first half"), damping)
    wrong = int(case.labels.flipped.sum())
    cleaned = without(case.train_set, most_suspect(ranking, wrong))
    accuracy = case.trained_on(cleaned, case.second_half)
    auc = quality(ranking, case.labels)["auc"]
    assert auc is not None
    return DampingRow(setting=case.setting.name, damping=damping, accuracy=accuracy, auc=auc)


def damping(
    data: Annotated[str, typer.Option(help=f"Data set: {', '.join(DATASETS)}.")] = "mnist",
    noise: Annotated[str, typer.Option(help="As table4 takes it.")] = "0.5",
    train_size: Annotated[int, typer.Option(min=100, help="Training samples.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of noise and run.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for run and rows; table4's saves a training.")] = Path(
        "runs/table4"
    ),
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """The damping of influence functions in table4.

    It is searched on held-out data. Half of the validation set ranks; the other half measures the network trained
    without what ranks first.

    Example: python -m studies damping --data mnist
    """
    setting = Setting(data=data, noise=noise, size=train_size, epochs=RECIPES[data].epochs, seed=seed)
    with quiet(silent):
        rows = reproduce_damping(out, setting, data_dir=data_dir)
    lines = [[f"{row.damping:g}", percent(row.accuracy), f"{row.auc:.3f}"] for row in rows]
    columns(f"Influence functions, {setting.name}", ["damping", "validation accuracy", "AUC (not used)"], lines)
    write_json(json, {f"{row.damping:g}": row.accuracy for row in rows})
