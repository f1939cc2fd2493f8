"""Tables about predicted removals: estimators, and the error along a run."""

from collections.abc import Sequence

import pandas as pd
from rows import markdown, mean, number, percent, read_rows, significant

NETWORKS = {
    ("mnist", "mlp"): "MNIST, MLP",
    ("fashion", "mlp"): "Fashion-MNIST, MLP",
    ("mnist", "lenet5"): "MNIST, LeNet-5",
    ("fashion", "lenet5"): "Fashion-MNIST, LeNet-5",
    ("mnist", "lenet5-smooth"): "MNIST, LeNet-5 with GELU",
    ("mnist", "batch-norm"): "MNIST, BatchNorm",
}
FULL = [("mnist", "lenet5"), ("mnist", "lenet5-smooth"), ("mnist", "batch-norm")]
"""Networks that were measured at the protocol's full size."""
ESTIMATORS = ("none", "hessian", "ggn", "hessian, 4 replays", "ggn, 4 replays")
ALL = (
    "re-rounded retraining",
    "two halves, summed",
    "none",
    "hessian",
    "ggn",
    *(f"ggn, damping {damping}" for damping in ("0.01", "0.1", "1")),
    *(f"{curvature}, {count} replays" for curvature in ("hessian", "ggn") for count in (2, 4, 8)),
    "influence functions",
    "influence functions over training",
    "TracIn",
)
CEILINGS = ALL[:2]
DIGITS = {
    "logistic": "logistic",
    "mlp": "MLP",
    "batch-norm": "BatchNorm",
    "lenet5": "LeNet-5",
    "lenet5-smooth": "LeNet-5 with GELU",
}


def estimator_rows(epochs: int) -> pd.DataFrame:
    """The rows of the protocol with so many epochs; the first rows left its defaults out."""
    rows = read_rows("estimators").fillna({"train_size": 5000, "epochs": 5, "removals": 30})
    return rows[rows.epochs == epochs]


def over_runs() -> str:
    """The main estimators over three runs: LDS of the mean loss, 10 % left out, and the mean slope."""
    rows = estimator_rows(5)
    rows = rows[rows.share == 0.1]
    lines = []
    for (data, network), name in NETWORKS.items():
        own = rows[(rows.data == data) & (rows.network == network)]
        measured = [own[own.estimator == estimator] for estimator in ESTIMATORS]
        lines.append([name, *(f"{mean(runs.lds, 2)} ({number(runs.slope.mean(), 2)})" for runs in measured)])
    return markdown(["trained", *ESTIMATORS], lines)


def of_one_run(epochs: int, networks: Sequence[tuple[str, str]], *, small: bool) -> str:
    """All estimators on single runs (seed 0): LDS of removals of 10 %; if `small`, with the slope, and of 5 and 1 %."""
    rows = estimator_rows(epochs)
    rows = rows[rows.seed == 0].set_index(["data", "network", "estimator", "share"]).sort_index()
    lines = []
    for estimator in ALL:
        cells = []
        for network in networks:
            lds = {share: rows.lds.get((*network, estimator, share)) for share in (0.1, 0.05, 0.01)}
            slope = rows.slope.get((*network, estimator, 0.1))
            others = ["–" if lds[share] is None else number(lds[share], 2) for share in (0.05, 0.01)]
            tenth = "" if lds[0.1] is None else number(lds[0.1], 2)
            cells.append(f"{tenth} ({number(slope, 2)})" if small and tenth else tenth)
            cells += [" / ".join(others) if any(value != "–" for value in others) else ""] if small else []
        if any(cells):
            lines.append([f"*{estimator}*" if estimator in CEILINGS else estimator, *cells])
    sizes = (": 10 %", ": 5 / 1 %") if small else ("",)
    headings = [f"{NETWORKS[network]}{size}" for network in networks for size in sizes]
    return markdown(["LDS (slope)" if small else "LDS", *headings], facts(rows, networks, len(sizes)) + lines)


def facts(rows: pd.DataFrame, networks: Sequence[tuple[str, str]], width: int) -> list[list[str]]:
    """Lines with accuracy, cosine and growth of a rounding of single runs; `width`: columns per network."""
    runs = [rows.loc[network].iloc[0] for network in networks]
    lines = {
        "test accuracy": [percent(run.test_accuracy, 1) for run in runs],
        "cosine": [number(run.cosine, 2) for run in runs],
        "one rounding grows by": [significant(run.rounding_growth, 2) for run in runs],
    }
    empty = [""] * (width - 1)
    return [[name, *(cell for value in values for cell in (value, *empty))] for name, values in lines.items()]


def digits() -> str:
    """LDS and slope of estimators on five networks."""
    rows, estimators = read_rows("trust-digits"), (*ESTIMATORS[:3], "ggn, damping 0.1", *ESTIMATORS[3:])
    lines = []
    for network, name in DIGITS.items():
        own = rows[rows.network == network].set_index("estimator")
        run = own.iloc[0]
        facts = [percent(run.test_accuracy, 1), number(run.cosine, 2), significant(run.rounding_growth, 2)]
        cells = [f"{number(own.lds_mean_loss[name], 2)} ({number(own.slope[name], 2)})" for name in estimators]
        lines.append([name, *facts, *cells])
    return markdown(["network", "accuracy", "cosine", "rounding", *estimators], lines)


def error() -> str:
    """Errors along a run: without curvature, and of influence functions."""
    rows = read_rows("error").set_index(["network", "step", "estimator"])
    names = {"mlp": "MLP, ReLU", "lenet5": "LeNet-5, ReLU", "lenet5-smooth": "LeNet-5, GELU"}
    estimators = {"none": "without curvature", "influence functions": "influence functions"}
    lines = []
    for network, name in names.items():
        for step in (20, 80, 160):
            sizes = rows.loc[network, step, "none"][["exact", "measured_bound"]]
            line = [name, str(step), *(significant(size, 3) for size in sizes)]
            for estimator in estimators:
                row = rows.loc[network, step, estimator]
                line += [number(row.relative_error, 2), percent(row.sign_disagreements), number(row.spearman, 2)]
            lines.append(line)
    measures = ("relative error", "wrong signs", "Spearman")
    headings = [f"{estimator}: {measure}" for estimator in estimators.values() for measure in measures]
    return markdown(["network", "step", "exact", "Σ‖κ‖‖H∇‖", *headings], lines)


TABLES = {
    "digits": digits,
    "three-runs": over_runs,
    "full-size": lambda: of_one_run(10, FULL, small=True),
    "one-run": lambda: of_one_run(5, list(NETWORKS), small=False),
    "error": error,
}
"""Name in the document → what writes the table."""
