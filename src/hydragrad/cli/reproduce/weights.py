"""`hydragrad reproduce weights`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from hydragrad.cleaning.suspicion import WEIGHTS
from hydragrad.cli.console import columns, say, write_json
from hydragrad.cli.options import DataDir, Json, Quiet
from hydragrad.progress import quiet
from hydragrad.studies import reproduce_weights


def weights(
    label_errors: Annotated[bool, typer.Option(help="Take in the errors in MNIST's own test set.")] = True,
    shown: Annotated[int, typer.Option(min=1, help="Combinations to print.")] = 8,
    out: Annotated[Path, typer.Option(help="Folder for runs; table4's saves trainings.")] = Path("runs/table4"),
    csv: Annotated[Path | None, typer.Option(dir_okay=False, help="File of all combinations.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes for out-of-fold trainings.")] = 1,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """The weights of the ranking that `hydragrad clean` uses: a grid, on the settings that they were chosen on.

    Needs twelve runs with their signals, some 25 minutes of processor time; they are kept.

    Example: hydragrad reproduce weights --csv weights.csv
    """
    with quiet(silent):
        found = reproduce_weights(out, label_errors=label_errors, data_dir=data_dir, workers=workers)
    file = csv or out / "weights.csv"
    found.to_csv(file, index=False, float_format="%.5g")
    names = list(asdict(WEIGHTS))
    chosen = (found[names] == pd.Series(asdict(WEIGHTS))).all(axis=1)
    table = found.assign(place=found.index + 1, note=chosen.map({True: "chosen", False: ""}))
    table.loc[(found[names] == 0).all(axis=1), "note"] = "margin alone"
    lines = [
        [row["note"], str(row["place"]), *(f"{row[name]:g}" for name in names), f"{row['mean']:.4f}"]
        for row in table[(table["place"] <= shown) | (table["note"] != "")].to_dict("records")
    ]
    columns(f"Mean AUC of {len(found)} combinations", ["", "place", *names, "mean AUC"], lines, left=[""])
    say(f"all of them: {file}")
    write_json(json, {"chosen": float(found["mean"][chosen].iloc[0]), "best": float(found["mean"].iloc[0])})
