"""The studies table1 and table2: the extremes of `studies/extremes.py` as tables and pictures."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hydragrad.cli.console import columns, percent, say, write_json
from hydragrad.cli.options import DataDir, Json, Quiet, require_one_of
from hydragrad.datasets import DATASETS
from hydragrad.progress import quiet
from studies.extremes import Extreme, Extremes, reproduce_extremes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Out = Annotated[Path, typer.Option(help="Folder for run, scores and picture.")]
Data = Annotated[str, typer.Option(help=f"Data set: {', '.join(DATASETS)}.")]
TrainSize = Annotated[int | None, typer.Option(min=100, help="Training samples (default: all).")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over them (default: the paper's).")]
Kind = Annotated[Literal["none", "hessian"], typer.Option(help="none: HYDRA, as in the paper; hessian: exact.")]
Top = Annotated[int, typer.Option(min=1, help="Training samples on either side.")]
Seed = Annotated[int, typer.Option(help="Of initialisation and order.")]


def table1(
    data: Data = "mnist",
    train_size: TrainSize = None,
    epochs: Epochs = None,
    curvature: Kind = "none",
    top: Top = 5,
    seed: Seed = 0,
    out: Out = Path("runs/extremes"),
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Training samples that harm and help the mean test loss most.

    The network is trained on clean labels. Writes OUT/table1.png. table2 uses the same run.

    Example: python -m studies table1 --train-size 5000 --epochs 5
    """
    extremes = _measured(out, data, data_dir, train_size, epochs, curvature, top, 1, seed, silent)
    rows = [
        (
            str(extreme.sample),
            extremes.splits.classes[extreme.label],
            extremes.splits.classes[extreme.predicted],
            percent(extreme.confidence),
            f"{extreme.contribution:+.2e}",
        )
        for extreme in (*extremes.harmful, *extremes.helpful)
    ]
    headings = ("train sample", "label", "predicted", "confidence", "contribution")
    columns("contribution to the mean test loss (positive helps)", headings, rows)
    say(f"mean of all training samples: {extremes.mean:+.1e}; test accuracy {100 * extremes.test_accuracy:.2f} %")
    _save(extremes.table1(), out / "table1.png")
    figures = {f"{kind}_{n}": extreme.contribution for kind, n, extreme in _numbered(extremes)}
    write_json(json, figures | {"mean": extremes.mean, "test_accuracy": extremes.test_accuracy})


def table2(
    data: Data = "mnist",
    train_size: TrainSize = None,
    epochs: Epochs = None,
    curvature: Kind = "none",
    top: Top = 5,
    moved: Annotated[int, typer.Option(min=1, help="Test samples for each of them, on either side.")] = 3,
    seed: Seed = 0,
    out: Out = Path("runs/extremes"),
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Single test samples that table1's samples harm and help most.

    Writes OUT/table2.png.

    Example: python -m studies table2 --train-size 5000 --epochs 5
    """
    extremes = _measured(out, data, data_dir, train_size, epochs, curvature, top, moved, seed, silent)
    names = extremes.splits.classes
    rows = [
        (
            str(extreme.sample),
            names[extreme.label],
            str(moved_sample.sample),
            names[moved_sample.label],
            names[moved_sample.predicted],
            percent(moved_sample.confidence),
            f"{moved_sample.contribution:+.3g}",
        )
        for extreme in (*extremes.harmful, *extremes.helpful)
        for moved_sample in (*extreme.harmed, *extreme.helped)
    ]
    headings = ("train sample", "label", "test sample", "label", "predicted", "confidence", "contribution")
    columns("contribution to single test losses (positive helps)", headings, rows)
    _save(extremes.table2(), out / "table2.png")
    worst = {f"{kind}_{n}_harmed": extreme.harmed[0].contribution for kind, n, extreme in _numbered(extremes)}
    best = {f"{kind}_{n}_helped": extreme.helped[0].contribution for kind, n, extreme in _numbered(extremes)}
    write_json(json, worst | best | {"test_accuracy": extremes.test_accuracy})


def _measured(
    out: Path,
    data: str,
    data_dir: Path | None,
    train_size: int | None,
    epochs: int | None,
    curvature: Literal["none", "hessian"],
    top: int,
    moved: int,
    seed: int,
    silent: bool,
) -> Extremes:
    require_one_of(data, DATASETS, "--data")
    size = f"{data}-{train_size or 'all'}-e{epochs or 'paper'}-s{seed}"
    with quiet(silent):
        return reproduce_extremes(
            out / size,
            data=data,
            data_dir=data_dir,
            train_size=train_size,
            epochs=epochs,
            curvature=curvature,
            top=top,
            moved=moved,
            seed=seed,
        )


def _numbered(extremes: Extremes) -> Iterator[tuple[str, int, Extreme]]:
    for kind, samples in (("harmful", extremes.harmful), ("helpful", extremes.helpful)):
        for number, extreme in enumerate(samples):
            yield kind, number, extreme


def _save(picture: "Figure", file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(file, dpi=160)
    say(f"picture: {file}")
