"""Tables of rankings over several runs, and of public protocols."""

from collections.abc import Mapping, Sequence
from math import sqrt

import pandas as pd
from rows import interval, markdown, mean, number, percent, read_rows
from scipy.stats import t

DATA = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}
NAMES = {
    "ceiling": "truth against truth with other seeds",
    "hessian": "exact",
    "hessian of own half": "exact, of own half",
    "ggn of own half": "ggn, of own half",
    "ggn damped 0.01": "ggn, damping 0.01",
}


def settling() -> str:
    """Rank correlations of single runs and of means over runs, and the LDS of both."""
    lines = []
    for row in read_rows("settling").itertuples():
        spearman = [row.single, row.measured[1], row.measured[4]]  # measured: means over 1, 2, ... runs
        lds = [number(value, 2) for value in (row.one_to_own, row.one_to_mean)]
        lds.append(interval(row.all_to_mean, row.low, row.high, 2))
        cells = [*(number(value, 2) for value in spearman), percent(row.certain), *lds]
        lines.append([DATA[row.data], row.curvature, *cells])
    spearman, lds = ("single runs", "means over 2", "over 5"), ("one run, own changes", "one run", "all runs")
    return markdown(["trained", "curvature", *spearman, "certain", *(f"LDS, {kind}" for kind in lds)], lines)


def single_removals() -> str:
    """Kendall's tau in SGD-influence's protocol: mean, standard deviation, 90 % interval of the mean."""
    published = {
        ("logistic", "hessian"): "0.95 (SGD-influence)",
        ("logistic", "influence functions"): "0.70",
        ("dnn", "hessian"): "0.45 (SGD-influence)",
        ("dnn", "influence functions"): "0.27",
    }
    rows, lines = read_rows("hara"), []
    for model, name in {"logistic": "logistic regression", "dnn": "network [8, 8]"}.items():
        for estimator in ("none", "hessian", "ggn", "influence functions"):
            own = rows[(rows.model == model) & (rows.estimator == estimator)]
            if own.empty:
                continue
            half = t.ppf(0.95, len(own) - 1) * own.tau.std() / sqrt(len(own))
            bounds = f"[{number(own.tau.mean() - half, 3)}, {number(own.tau.mean() + half, 3)}]"
            cells = [f"{mean(own.tau, 3)} {bounds}", number(own.jaccard.mean(), 2)]
            lines.append([name, estimator, *cells, published.get((model, estimator), "")])
    return markdown(["model", "estimator", "τ", "Jaccard", "their τ"], lines)


def random_halves(
    rows: pd.DataFrame, estimators: Sequence[str], columns: Mapping[str, str], published: Mapping[str, Sequence[str]]
) -> str:
    """Correlations with retrainings, and their intervals.

    Args:
        rows: With `estimator`, `value`, `low` and `high`.
        estimators: One per line.
        columns: Heading → query of the rows.
        published: Whose → their value per column.
    """
    lines = []
    for estimator in estimators:
        cells = []
        for query in columns.values():
            measured = rows[rows.estimator == estimator].query(query)
            cells.append("" if measured.empty else interval(*measured.iloc[0][["value", "low", "high"]], digits=3))
        lines.append([NAMES.get(estimator, estimator), *cells])
    lines += [[f"published: {whose}", *values] for whose, values in published.items()]
    return markdown(["", *columns], lines)


def dattri_logistic() -> str:
    """Random halves and single removals, logistic regression."""
    rows = read_rows("dattri")
    columns = {
        "LDS, one run": "metric == 'LDS' and runs == 1",
        "LDS, five runs": "metric == 'LDS' and runs == 5",
        "LOO (Pearson), one run": "metric == 'LOO' and runs == 1",
        "LOO (Pearson), five runs": "metric == 'LOO' and runs == 5",
    }
    estimators = ("hessian", "influence functions", "ceiling")
    published = {"influence functions": ["0.80", "", "0.88", ""]}
    return random_halves(rows[rows.model == "logistic"], estimators, columns, published)


def dattri_mlp() -> str:
    """Random halves, MLP."""
    rows = read_rows("dattri")
    columns = {f"LDS, {count} runs": f"metric == 'LDS' and runs == {count}" for count in (1, 5, 10, 13)}
    columns = {name.replace(" 1 runs", " 1 run"): query for name, query in columns.items()}
    estimators = ("none", "hessian", "hessian of own half", "ggn", "ggn damped 0.01", "ggn of own half")
    estimators += ("influence functions", "influence functions over training", "TracIn", "ceiling")
    published = {
        "TRAK": ["", "", "0.437 (10 models, tuned)", "0.447 (50 models)"],
        "influence functions": ["0.257", "", "", ""],
        "TracIn": ["0.145", "", "", ""],
    }
    return random_halves(rows[rows.model == "mlp"], estimators, columns, published)


def source_fashion() -> str:
    """Random halves in SOURCE's setting."""
    rows = read_rows("bae").rename(columns={"lds": "value"})
    columns = {
        f"{runs} run{'s' if runs > 1 else ''}, truth of {seeds} seeds": f"runs == {runs} and seeds == {seeds}"
        for seeds, runs in ((24, 1), (24, 5), (8, 1), (8, 5), (2, 1))
    }
    estimators = ("none", "hessian", "hessian of own half", "ggn", "ggn of own half", "ggn damped 0.01")
    estimators += ("influence functions", "influence functions over training", "TracIn", "ceiling")
    published = {
        "SOURCE (truth of 50 seeds)": ["0.46", "0.53 (ensemble)", "", "", ""],
        "influence functions (truth of 50 seeds)": ["0.30", "0.45 (ensemble)", "", "", ""],
    }
    return random_halves(rows, estimators, columns, published)


TABLES = {
    "settling": settling,
    "single-removals": single_removals,
    "dattri-logistic": dattri_logistic,
    "dattri-mlp": dattri_mlp,
    "source-fashion": source_fashion,
}
"""Name in the document → what writes the table."""
