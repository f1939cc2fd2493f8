"""`hydragrad reproduce label-errors`."""

from pathlib import Path
from typing import Annotated

import typer

from hydragrad.cli.console import say, table, write_json
from hydragrad.cli.options import DataDir, Json, Quiet
from hydragrad.progress import quiet
from hydragrad.studies import reproduce_label_errors

FIRST = (15, 50, 100, 200, 500)


def label_errors(
    data: Annotated[str, typer.Option(help="Data set: mnist or cifar10.")] = "mnist",
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the test set (default: the paper's).")] = None,
    out: Annotated[Path, typer.Option(help="Folder for run, table and picture.")] = Path("runs/label-errors"),
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Wrong labels in a published test set, against what five people said of the doubtful ones.

    Trains LeNet-5 on the test set, ranks its labels, and writes OUT/DATA/suspects.csv and OUT/DATA/suspects.png.
    Interrupted, the same command goes on. Example: hydragrad reproduce label-errors --data mnist
    """
    folder = out / data
    with quiet(silent):
        found = reproduce_label_errors(folder, data=data, data_dir=data_dir, epochs=epochs)
    found.ranked.to_csv(folder / "suspects.csv", index=False)
    found.picture.savefig(folder / "suspects.png", dpi=160)
    counts = {f"found_in_first_{first}": found.found(first) for first in FIRST}
    rows = {f"of {found.known} known errors, in the first {first}": str(found.found(first)) for first in FIRST}
    table(f"{len(found.ranked):,} test labels of {data}", rows | {"AUC": f"{found.auc:.4f}"})
    say(f"suspects: {folder / 'suspects.csv'}; picture: {folder / 'suspects.png'}")
    write_json(json, {"known": found.known, "auc": found.auc, **counts})
