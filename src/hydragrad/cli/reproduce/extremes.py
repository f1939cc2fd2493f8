"""`hydragrad reproduce table1` and `table2`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hydragrad.cli.console import columns, percent, say, write_json
from hydragrad.cli.options import DataDir, Json, Quiet
from hydragrad.datasets import DATASETS
from hydragrad.errors import UnknownName
from hydragrad.progress import quiet
from hydragrad.studies import Extreme, Extremes, reproduce_extremes

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
    """Training samples that harm and help the mean test loss most, after training on clean labels.

    Writes OUT/table1.png. The same run serves table2.

    Example: hydragrad reproduce table1 --train-size 5000 --epochs 5
    """
    found = _found(out, data, data_dir, train_size, epochs, curvature, top, 1, seed, silent)
    rows = [
        (
            str(each.sample),
            found.splits.classes[each.label],
            found.splits.classes[each.predicted],
            percent(each.confidence),
            f"{each.contribution:+.2e}",
        )
        for each in (*found.harmful, *found.helpful)
    ]
    headings = ("train sample", "label", "predicted", "confidence", "contribution")
    columns("contribution to the mean test loss (positive helps)", headings, rows)
    say(f"mean of all training samples: {found.mean:+.1e}; test accuracy {100 * found.test_accuracy:.2f} %")
    _keep(found.table1(), out / "table1.png")
    figures = {f"{kind}_{n}": one.contribution for kind, n, one in _numbered(found)}
    write_json(json, figures | {"mean": found.mean, "test_accuracy": found.test_accuracy})


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
    """The single test samples that the training samples of table1 harm and help most.

    Writes OUT/table2.png.

    Example: hydragrad reproduce table2 --train-size 5000 --epochs 5
    """
    found = _found(out, data, data_dir, train_size, epochs, curvature, top, moved, seed, silent)
    names = found.splits.classes
    rows = [
        (
            str(each.sample),
            names[each.label],
            str(one.sample),
            names[one.label],
            names[one.predicted],
            percent(one.confidence),
            f"{one.contribution:+.3g}",
        )
        for each in (*found.harmful, *found.helpful)
        for one in (*each.harmed, *each.helped)
    ]
    headings = ("train sample", "label", "test sample", "label", "predicted", "confidence", "contribution")
    columns("contribution to single test losses (positive helps)", headings, rows)
    _keep(found.table2(), out / "table2.png")
    worst = {f"{kind}_{n}_harmed": one.harmed[0].contribution for kind, n, one in _numbered(found)}
    best = {f"{kind}_{n}_helped": one.helped[0].contribution for kind, n, one in _numbered(found)}
    write_json(json, worst | best | {"test_accuracy": found.test_accuracy})


def _found(
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
    if data not in DATASETS:
        raise UnknownName(f"--data takes one of {', '.join(DATASETS)}; {data} came.")
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


def _numbered(found: Extremes) -> Iterator[tuple[str, int, Extreme]]:
    for kind, some in (("harmful", found.harmful), ("helpful", found.helpful)):
        for number, one in enumerate(some):
            yield kind, number, one


def _keep(picture: "Figure", file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(file, dpi=160)
    say(f"picture: {file}")
