"""Tables about wrong labels: rankings, and accuracies after cleaning."""

from collections.abc import Mapping

import pandas as pd
from rows import markdown, mean, number, percent, read_rows

PLAIN = ("no filtering", "true labels")
METHODS = (
    "hydragrad",
    "HYDRA",
    "confident learning",
    "small loss",
    "influence functions",
    "TracIn",
    "margin over training",
    "self-confidence",
)
KNOWN, SUSPECTS, RELABEL = "remove known share", "remove suspects", "relabel suspects"
TEN_THOUSAND = "mnist-{}-10000-lenet5-e20"
NOISES = ("0.1", "0.2", "0.3", "0.5", "0.8", "swap-0.3")


def setting_rows(setting: str) -> pd.DataFrame:
    """The rows of a setting of Table 4, of all seeds."""
    rows = read_rows("table4")
    return rows[rows.setting.str.fullmatch(rf"{setting}-s\d+")]


def values(rows: pd.DataFrame, method: str, column: str, action: str = "rank") -> pd.Series:
    """One measurement of a method, a value per seed; trainings without cleaning are compared with those by `KNOWN`."""
    measured = rows[(rows.method == method) & rows.action.isin([action, "nothing" if action == KNOWN else action])]
    return measured.sort_values("setting")[column]


def table4(columns: Mapping[str, tuple[str, str]]) -> str:
    """AUC of rankings, and test accuracy in percent after cleaning; `columns`: heading → setting and action."""
    rows = {setting: setting_rows(setting) for setting, _ in columns.values()}
    lines = []
    for method in (*PLAIN, *METHODS):
        cells = []
        for setting, action in columns.values():
            if action == "rank":
                cells.append(mean(values(rows[setting], method, "auc"), 4))
            else:
                cells.append(mean(100 * values(rows[setting], method, "accuracy", action), 2))
        lines.append([method, *cells])
    return markdown(["method", *columns], lines)


def validation_noise() -> str:
    """AUC with a share of the validation labels flipped."""
    base = TEN_THOUSAND.format("0.5")
    columns = {"clean": "", "20 % flipped": "-v0.2", "50 % flipped": "-v0.5"}
    methods = ("hydragrad", "HYDRA", "influence functions", "TracIn", "small loss")
    settings = [read_rows("table4").query(f"setting == '{base}{suffix}-s0'") for suffix in columns.values()]
    lines = [[method, *(mean(values(rows, method, "auc"), 4) for rows in settings)] for method in methods]
    return markdown(["AUC", *columns], lines)


def noise_settings() -> dict[str, pd.DataFrame]:
    """Heading → rows of the first two seeds, for several kinds of noise."""
    settings = {noise: setting_rows(TEN_THOUSAND.format(noise)) for noise in NOISES}
    return {
        noise if "-" in noise else percent(float(noise)): rows[rows.setting.str.contains("-s[01]$")]
        for noise, rows in settings.items()
    }


def noises_ranked() -> str:
    """AUC for several kinds of noise."""
    settings = noise_settings()
    lines = [
        [method, *(number(values(rows, method, "auc").mean(), 4) for rows in settings.values())] for method in METHODS
    ]
    return markdown(["AUC", *settings], lines)


def noises_cleaned() -> str:
    """Test accuracy without the known share, and relabelled, for several kinds of noise."""
    settings = noise_settings()

    def cell(rows: pd.DataFrame, method: str) -> str:
        accuracies = [(100 * values(rows, method, "accuracy", action)).mean() for action in (KNOWN, RELABEL)]
        cells = [number(accuracy, 2) for accuracy in accuracies]
        return cells[0] if method in PLAIN else " / ".join(filter(None, cells))

    methods = (*PLAIN, "hydragrad", "confident learning", "small loss", "influence functions")
    lines = [[method, *(cell(rows, method) for rows in settings.values())] for method in methods]
    return markdown(["removed / relabelled", *settings], lines)


def agreeing_errors() -> str:
    """AUC where wrong samples agree with one another."""
    rows, settings = read_rows("table4"), ("patch-0.02", "cluster-0.1", "copies-0.1")
    seeds = [(kind, seed) for kind in settings for seed in (0, 1)]
    methods = ["hydragrad", "hydragrad (failures)", "HYDRA", "HYDRA (failures)"]
    methods += ["small loss", "margin over training", "self-confidence", "confident learning"]

    def cell(method: str, kind: str, seed: int) -> str:
        measured = rows[(rows.setting == f"{TEN_THOUSAND.format(kind)}-s{seed}") & (rows.method == method)]
        return mean(measured.auc, 3)

    lines = [[method, *(cell(method, kind, seed) for kind, seed in seeds)] for method in methods]
    return markdown(["AUC", *(f"{kind}, seed {seed}" for kind, seed in seeds)], lines)


CHOSEN = {("digits", 0), ("digits", 1), ("mnist", 1)}
"""Data and seeds of the settings that the default ranking was chosen on; and the label errors."""
LABEL_ERRORS = "mnist-test-label-errors"


def ranking() -> str:
    """AUC of the default ranking and of every signal in it, a line a setting, means over seeds."""
    rows = read_rows("ranking")
    parts = rows.setting.str.extract(r"^(digits|mnist)-(.+)-\d+-lenet5-e\d+-s(\d+)$")
    rows["line"] = (parts[0] + ", " + parts[1]).fillna("errors in MNIST's test set")
    seeds = zip(parts[0], parts[2].fillna("-1").astype(int), strict=True)
    rows["kind"] = ["chosen on" if key in CHOSEN or key[1] < 0 else "others" for key in seeds]
    names = list(dict.fromkeys(rows.ranking))
    lines = []
    for kind, some in rows.groupby("kind", sort=False):
        for line, of in [*some.groupby("line", sort=False), ("**mean of these**", some)]:
            aucs = of.groupby("ranking").auc.mean()
            best = aucs.max()
            cells = [f"**{number(aucs[n], 3)}**" if aucs[n] >= best - 5e-4 else number(aucs[n], 3) for n in names]
            lines.append([str(kind), str(line), str(of.setting.nunique()), *cells])
    return markdown(["", "setting", "runs", *names], lines)


def accuracy() -> str:
    """Test accuracy on clean labels."""
    rows = read_rows("accuracy")
    lines = []
    for name, data, published in (("MNIST", "mnist", "99.09"), ("Fashion-MNIST", "fashion", "89.99")):
        full = rows[(rows.data == data) & (rows.samples == 50_000)]
        lines.append([name, str(len(full)), mean(100 * full.accuracy, 2), published])
    return markdown(["", "seeds", "test accuracy", "published"], lines)


ALL = {"MNIST": "mnist-0.5-all-lenet5-e20", "Fashion-MNIST": "fashion-0.5-all-lenet5-e20"}
SMALL = {"20 epochs": TEN_THOUSAND.format("0.5"), "50 epochs": "mnist-0.5-10000-lenet5-e50"}
HUMAN = {"CIFAR-10N": "cifar10-human-worst-10000-lenet5-e30"}
ACTIONS = {"AUC": "rank", "known share": KNOWN, "suspects": SUSPECTS, "relabelled": RELABEL}


def columns(settings: Mapping[str, str], *actions: str) -> dict[str, tuple[str, str]]:
    """Columns of `table4`: every action for every setting."""
    return {f"{name}: {act}": (setting, ACTIONS[act]) for name, setting in settings.items() for act in actions}


def recommended() -> str:
    """What clean recommends: test accuracy in percent, mean and range of the gain over seeds."""
    rows, lines = read_rows("cleaning"), []
    for setting, mine in rows.groupby("setting", sort=False):
        given, true = (
            mine[mine.treatment == name].set_index("seed").accuracy for name in ("labels as given", "true labels")
        )
        best = mine[mine.recommended].set_index("seed").accuracy
        gains = 100 * (best - given)
        data, noise = str(setting).split("-8000-")[0].split("-", 1)
        kinds = mine[mine.recommended].treatment.str.replace(r"\d[\d,]* ", "", regex=True).str.replace("suspects ", "")
        counted = ", ".join(f"{kind} {count}" for kind, count in kinds.value_counts().items())
        share = mine.groupby("seed")[["wrong", "low", "high"]].first().mean()
        lines.append(
            [
                f"{data}, {noise}",
                percent(share.wrong),
                f"{percent(share.low)} to {percent(share.high)}",
                *(mean(100 * values, 2) for values in (given, best, true)),
                f"{gains.min():+.2f} to {gains.max():+.2f}",
                counted,
            ]
        )
    head = ["setting", "wrong", "said to be", "as given", "recommended", "true labels", "gains", "what was recommended"]
    return markdown(head, lines)


TABLES = {
    "cleaning": recommended,
    "table4": lambda: table4(columns(ALL, "AUC", "known share", "suspects", "relabelled")),
    "table4-small": lambda: table4(columns(SMALL, "AUC", "known share", "relabelled")),
    "cifar10n": lambda: table4(columns(HUMAN, "AUC", "known share", "relabelled")),
    "validation-noise": validation_noise,
    "noises-ranked": noises_ranked,
    "noises-cleaned": noises_cleaned,
    "agreeing-errors": agreeing_errors,
    "ranking": ranking,
    "accuracy": accuracy,
}
"""Name in the document → what writes the table."""
