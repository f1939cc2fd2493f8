"""Which damping influence functions are given in Table 4: searched as a user could, without knowing what is wrong.

Half of the validation set ranks, the network is trained again without the share that is known to be wrong, and the
other half says how well. What is chosen at one setting is used at all others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydragrad.cleaning import without
from hydragrad.progress import bar
from hydragrad.studies.noisy_run import NoisyRun, Setting
from hydragrad.studies.rankings import influence_ranking
from hydragrad.studies.rows import append_rows, kept_rows
from hydragrad.studies.table4 import most_suspect, quality

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
    """Measure every damping; the run and the rows in `out` are kept.

    Args:
        out: Folder for the run and the rows; that of Table 4 saves training the run again.
        setting: Data, noise and seed.
        dampings: Candidates.
        data_dir: Where the data sets' files lie.
    """
    case = NoisyRun(setting, out / setting.name, data_dir, 1)
    file = out / ROWS_FILE
    out.mkdir(parents=True, exist_ok=True)
    rows = [row for row in kept_rows(DampingRow, file) if row.setting == setting.name]
    left = [damping for damping in dampings if damping not in {row.damping for row in rows}]
    with bar("dampings", len(left), unit="dampings") as progress:
        for damping in left:
            rows.append(_measured(case, damping))
            append_rows(file, rows[-1:])
            progress.advance()
    return sorted(rows, key=lambda row: row.damping)


def _measured(case: NoisyRun, damping: float) -> DampingRow:
    ranking = influence_ranking(case, case.query("first half"), damping)
    wrong = int(case.labels.flipped.sum())
    kept = without(case.train_set, most_suspect(ranking, wrong))
    accuracy = case.trained_on(kept, case.second_half)
    auc = quality(ranking, case.labels)["auc"]
    assert auc is not None
    return DampingRow(setting=case.setting.name, damping=damping, accuracy=accuracy, auc=auc)
