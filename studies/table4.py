"""The paper's Table 4: label noise, found by several rankings; the network trained again without what they name.

One setting is a data set, a kind of noise, a size and a seed. A run is recorded on the noisy labels; every method
ranks the training samples from it; the network is trained from a fresh initialisation on what each method leaves.
Rankings and every single training are saved, so that an interrupted study resumes after the last of them.

Source: Chen et al. 2021, section 4.3 and Table 4.
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset, TensorDataset

from hydragrad.cleaning import relabelled, without
from hydragrad.cli.console import columns, write_json
from hydragrad.cli.options import DataDir, Json, Quiet, named_among, require_one_of
from hydragrad.datasets import DATASETS
from hydragrad.experiments.recipes import RECIPES
from hydragrad.models import MODELS
from hydragrad.progress import quiet
from hydragrad.replay import label_of
from studies.noisy_run import NoisyRun, Setting
from studies.rankings import METHODS, Ranking, most_suspect, quality
from studies.rows import append_rows, saved_rows

Measured = dict[str, float | int | None]

ROWS_FILE = "table4.jsonl"
EPOCHS = ", ".join(f"{name} {recipe.epochs}" for name, recipe in RECIPES.items())
DEFAULT = tuple(name for name in METHODS if "failures" not in name)
"""Rankings that every setting has; a network that gets every validation sample right has no failures."""
FILTERING = ("hydragrad", "HYDRA", "confident learning", "small loss", "influence functions")
"""Methods that the network is trained again after, by default."""
KNOWN, SUSPECTS, RELABEL = "remove known share", "remove suspects", "relabel suspects"
ACTIONS = (KNOWN, SUSPECTS, RELABEL)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement; what does not apply is None.

    Attributes:
        action: "rank", or what was done before training again: "nothing", or one of `ACTIONS`.
        wrong: Samples that something is wrong with.
        auc: Probability that a wrong sample ranks above a right one.
        found_10, found_20: Share of the wrong samples in the first 10 and 20 %.
        suggested: Share of all samples whose suggested label is right.
        changed: Samples removed or relabelled.
        accuracy: On the test set, after training again.
        versions: Of Python and torch.
    """

    setting: str
    method: str
    action: str
    wrong: int
    samples: int
    auc: float | None = None
    found_10: float | None = None
    found_20: float | None = None
    suggested: float | None = None
    changed: int | None = None
    accuracy: float | None = None
    versions: str = f"Python {platform.python_version()}, torch {torch.__version__}"


def reproduce_table4(
    out: Path,
    setting: Setting,
    *,
    data_dir: Path | None = None,
    methods: Sequence[str] = DEFAULT,
    filtering: Sequence[str] = FILTERING,
    actions: Sequence[str] = ACTIONS,
    references: bool = True,
    workers: int = 1,
) -> list[Row]:
    """Measure one setting; runs, rankings and single trainings in `out` are reused.

    Args:
        out: Folder for the runs and the rows.
        setting: Data, noise and seed.
        data_dir: Folder with the data sets' files.
        methods: Some of `METHODS`.
        filtering: Those of them that the network is trained again after.
        actions: Some of `ACTIONS`: what is done before it is trained again.
        references: Train on the labels as given, and on the true ones.
        workers: Processes that train at the same time for out-of-fold probabilities.

    Returns:
        All rows of the setting, earlier ones first.

    Raises:
        DataError: Unknown noise.
        Unsupported: A baseline's library is not installed.
    """
    case = NoisyRun(setting, out / setting.name, data_dir, workers)
    file = out / ROWS_FILE
    out.mkdir(parents=True, exist_ok=True)
    rows = {(row.method, row.action): row for row in saved_rows(Row, file) if row.setting == setting.name}
    common = {"setting": setting.name, "wrong": int(case.labels.flipped.sum()), "samples": len(case.train_set)}

    def measured(method: str, action: str, measure: Callable[[], Measured]) -> None:
        if (method, action) not in rows:
            rows[method, action] = Row(method=method, action=action, **common, **measure())  # type: ignore[arg-type]
            append_rows(file, [rows[method, action]])

    if references:
        true = TensorDataset(case.train_set.tensors[0], case.labels.true)
        measured("no filtering", "nothing", lambda: {"accuracy": case.trained_on(case.train_set)})
        measured("true labels", "nothing", lambda: {"accuracy": case.trained_on(true)})
    for method in methods:
        measured(method, "rank", partial(_rank, case, method))
    for method in methods:
        for action in actions if method in filtering else ():
            if (method, action) in rows:
                continue
            cleaned = _cleaned(case, _ranking(case, method), action)
            if cleaned is not None:
                measured(method, action, partial(_train_again, case, *cleaned))
    return list(rows.values())


def _ranking(case: NoisyRun, method: str) -> Ranking:
    file = case.folder / "rankings" / f"{method.replace(' ', '-')}.safetensors"
    if not file.exists():
        ranking = METHODS[method](case)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value for name, value in vars(ranking).items() if value is not None}, file)
    return Ranking(**load_file(file))


def _rank(case: NoisyRun, method: str) -> Measured:
    return {**quality(_ranking(case, method), case.labels)}


def _train_again(case: NoisyRun, train_set: Dataset[Any], changed: int) -> Measured:
    return {"changed": changed, "accuracy": case.trained_on(train_set)}


def _cleaned(case: NoisyRun, ranking: Ranking, action: str) -> tuple[Dataset[Any], int] | None:
    """What an action leaves to train on, and the number of samples changed; None where it can't be done."""
    wrong = int(case.labels.flipped.sum())
    if action == KNOWN:
        return (without(case.train_set, most_suspect(ranking, wrong)), wrong) if wrong else None
    if ranking.suspects is None or (action == RELABEL and ranking.suggested is None):
        return None
    suspects = ranking.suspects.nonzero().flatten().tolist()
    if not 0 < len(suspects) < len(case.train_set):
        return None
    if action == SUSPECTS:
        return without(case.train_set, suspects), len(suspects)
    assert ranking.suggested is not None
    suggested = ranking.suggested[suspects].tolist()
    return relabelled(case.train_set, suspects, suggested, label_of(case.run)), len(suspects)


def summary(rows: Sequence[Row]) -> pd.DataFrame:
    """Return one line a method: quality of its ranking, accuracy after each action; mean and spread over the seeds."""
    headings = ["method", "seeds", "AUC", "found in 10 %", "found in 20 %", "suggested right", *ACTIONS]
    lines = []
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        ranks = [row for row in own if row.action == "rank"]
        cells = [_spread([row.auc for row in ranks], 4)]
        cells += [_spread([getattr(row, name) for row in ranks], 3) for name in ("found_10", "found_20")]
        cells.append(_spread([_percent(row.suggested) for row in ranks], 1))
        for action in ACTIONS:
            trained = [row for row in own if row.action in (action, "nothing")]
            cells.append(_spread([_percent(row.accuracy) for row in trained], 2))
        lines.append([method, str(len({row.setting for row in own})), *cells])
    return pd.DataFrame(lines, columns=headings)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _spread(values: Sequence[float | None], digits: int) -> str:
    """Mean, and standard deviation if there are several."""
    known = pd.Series([value for value in values if value is not None], dtype=float)
    if known.empty:
        return "-"
    mean = f"{known.mean():.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ± {known.std():.{digits}f}"


def table4(
    data: Annotated[str, typer.Option(help=f"Data set: {', '.join(DATASETS)}.")] = "mnist",
    noise: Annotated[
        str,
        typer.Option(
            help="Share of uniform flips (0.5); of swaps between similar classes, at random (swap-0.3) or in one "
            "corner of every class (cluster-0.1); of copies (copies-0.1) or patched images (patch-0.02); human-worst."
        ),
    ] = "0.5",
    train_size: Annotated[int | None, typer.Option(min=100, help="Training samples (default: all).")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help=f"Passes over them (default: the paper's: {EPOCHS}).")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many: 0, 1, ...")] = 5,
    first_seed: Annotated[int, typer.Option(min=0, help="The first one, to measure some seeds only.")] = 0,
    model: Annotated[str, typer.Option(help=f"Model: {', '.join(MODELS)}.")] = "lenet5",
    validation_noise: Annotated[
        float, typer.Option(min=0, max=1, help="Share of validation labels that are flipped too.")
    ] = 0.0,
    methods: Annotated[str, typer.Option(help="Which rankings, with commas between.")] = ",".join(DEFAULT),
    filtering: Annotated[str, typer.Option(help="Those of them to train again after; none: only rank.")] = ",".join(
        FILTERING
    ),
    actions: Annotated[str, typer.Option(help="What to do before training again.")] = ",".join(ACTIONS),
    references: Annotated[bool, typer.Option(help="Also train on the labels as given, and on the true ones.")] = True,
    out: Annotated[Path, typer.Option(help="Folder for runs and rows.")] = Path("runs/table4"),
    workers: Annotated[int, typer.Option(min=1, help="Processes for out-of-fold trainings.")] = 1,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Wrong labels found, and accuracy after training without them.

    Compares several methods. A seed of the paper's setting takes about twenty trainings. If interrupted, the same
    command resumes after the last single training.

    Example: python -m studies table4 --data mnist --train-size 10000 --seeds 1
    """
    method_names = named_among(methods, METHODS, "--methods")
    retrained_after = [] if filtering == "none" else named_among(filtering, METHODS, "--filtering")
    action_names = named_among(actions, ACTIONS, "--actions")
    require_one_of(data, DATASETS, "--data")
    require_one_of(model, MODELS, "--model")
    rows = []
    with quiet(silent):
        for seed in range(first_seed, first_seed + seeds):
            setting = Setting(
                data=data,
                noise=noise,
                size=train_size,
                epochs=epochs or RECIPES[data].epochs,
                seed=seed,
                model=model,
                validation_noise=validation_noise,
            )
            rows += reproduce_table4(
                out,
                setting,
                data_dir=data_dir,
                methods=method_names,
                filtering=retrained_after,
                actions=action_names,
                references=references,
                workers=workers,
            )
    title = f"{data}, noise {noise}, {seeds} seed{'s' if seeds > 1 else ''}"
    columns(title, list(summary([]).columns), summary(rows).itertuples(index=False), left=["method"])
    write_json(json, {f"{row.setting} {row.method} {row.action}": row.accuracy or row.auc for row in rows})
