"""Tables of networks trained with AdamW: with and without smoothing of the derivative."""

from collections.abc import Mapping, Sequence

import pandas as pd
from rows import interval, markdown, mean, number, read_rows

CHOOSING = 100
"""The seed that the smoothing was chosen on; no other table has it."""
SMOOTHINGS = ("0", "0.001", "0.01", "0.1", "1")
CEILINGS = ("re-rounded retraining", "two halves, summed", "truth of another seed")
ESTIMATORS = (
    *CEILINGS,
    *(f"exact smoothing {share}" for share in SMOOTHINGS),
    *(f"exact per tensor {share}" for share in SMOOTHINGS[1:]),
    *("exact 4 replays", "ggn smoothing 0.01", "ggn smoothing 0", "none smoothing 0.01", "none smoothing 0"),
    *("influence functions", "influence functions over training", "TracIn", "TRAK"),
)


def reported(protocol: str) -> pd.DataFrame:
    """The rows of a protocol that are reported; of equal measurements that with most removals and queries."""
    rows = read_rows("adam")
    rows = rows[(rows.protocol == protocol) & (rows.seed < CHOOSING)]
    rows = rows.sort_values(["groups", "singles"], kind="stable")
    return rows.drop_duplicates(["subject", "seed", "removed", "estimator"], keep="last")


def named(estimator: str) -> str:
    """An estimator as a table calls it."""
    return f"*{estimator}*" if estimator in CEILINGS else estimator.replace(" smoothing", ", smoothing")


def one_image() -> str:
    """Protocol A: Spearman of single queries, and slope, over seeds."""
    rows, lines = reported("A"), []
    subjects = {
        "mlp-gelu 1e-3": "GELU, 1e-3",
        "mlp-relu 1e-3": "ReLU, 1e-3",
        "mlp-relu 1e-5": "ReLU, 1e-5",
    }
    seeds = {name: rows[rows.subject == name].seed.nunique() for name in subjects}
    for estimator in ESTIMATORS:
        cells = []
        for name in subjects:
            own = rows[(rows.subject == name) & (rows.estimator == estimator)]
            cells.append("" if own.empty else f"{mean(own.single, 2)} ({number(own.single_slope.mean(), 2)})")
        if any(cells):
            lines.append([named(estimator), *cells])
    headings = [f"{title} ({seeds[name]} seed{'s' if seeds[name] != 1 else ''})" for name, title in subjects.items()]
    return markdown(["", *headings], lines)


def of_runs(protocol: str, columns: Mapping[str, tuple[str, str]]) -> str:
    """LDS of the mean loss with its interval, of single queries, and the slope, of one run a column.

    Args:
        protocol: T or D.
        columns: Heading → subject and what was left out.
    """
    rows = reported(protocol)
    rows = rows[rows.seed == 0]
    lines: list[Sequence[str]] = []
    for estimator in ESTIMATORS:
        cells = []
        for name, removed in columns.values():
            own = rows[(rows.subject == name) & (rows.removed == removed) & (rows.estimator == estimator)]
            cells.append("" if own.empty else _cell(own.iloc[0]))
        if any(cells):
            lines.append([named(estimator), *cells])
    return markdown(["", *(heading for heading in columns)], lines)


def _cell(row: pd.Series) -> str:
    scores = f"{interval(row['mean'], row.low, row.high, 2)} / {number(row.single, 2)}"
    return scores if row.estimator == "TRAK" or pd.isna(row.slope) else f"{scores} ({number(row.slope, 2)})"


def choice() -> str:
    """The smoothings on the seed that they were chosen on: LDS of single queries and slope of the mean loss."""
    rows = read_rows("adam")
    rows = rows[rows.seed == CHOOSING]
    runs = list(dict.fromkeys(zip(rows.protocol, rows.subject, rows.removed, strict=True)))
    lines = []
    for kind in ("smoothing", "per tensor"):
        for share in SMOOTHINGS if kind == "smoothing" else SMOOTHINGS[1:]:
            own = rows[rows.estimator == f"exact {kind} {share}"].set_index(["protocol", "subject", "removed"])
            cells = [f"{number(own.single[run], 3)} ({number(own.slope[run], 2)})" for run in runs]
            lines.append([share if kind == "smoothing" else f"{share}, per tensor", *cells])
    return markdown(["smoothing", *(f"{subject}, {removed}" for _, subject, removed in runs)], lines)


TABLES = {
    "adam-one": one_image,
    "adam-groups": lambda: of_runs("T", {"10 % left out": ("mlp-gelu", "10 %"), "2 % left out": ("mlp-gelu", "2 %")}),
    "adam-gpt": lambda: of_runs(
        "D",
        {
            "10 % left out": ("gpt", "10 %"),
            "1 % left out": ("gpt", "1 %"),
        },
    ),
    "adam-choice": choice,
}
"""Name in the document → what writes the table."""
