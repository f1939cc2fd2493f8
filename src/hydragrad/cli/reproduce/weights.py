"""`hydragrad reproduce weights`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from hydragrad.cleaning.suspicion import WEIGHTS
from hydragrad.cli.console import columns, percent, say, write_json
from hydragrad.cli.options import DataDir, Json, Quiet
from hydragrad.progress import quiet
from hydragrad.studies import reproduce_filtering, reproduce_weights


def weights(
    label_errors: Annotated[bool, typer.Option(help="Take in the errors in MNIST's own test set.")] = True,
    filtering: Annotated[
        bool, typer.Option("--filtering", help="Instead: train without what ranks first, by weight of influence.")
    ] = False,
    shown: Annotated[int, typer.Option(min=1, help="Combinations to print.")] = 8,
    out: Annotated[Path, typer.Option(help="Folder for runs; table4's saves trainings.")] = Path("runs/table4"),
    csv: Annotated[Path | None, typer.Option(dir_okay=False, help="File of all combinations.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes for out-of-fold trainings.")] = 1,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """The weights of the ranking that `hydragrad clean` uses: a grid, on the settings that they were chosen on.

    Needs twelve runs with their signals, some 25 minutes of processor time; they are kept. With --filtering three runs
    and twelve trainings.

    Example: hydragrad reproduce weights --csv weights.csv
    """
    if filtering:
        _show_filtering(out, data_dir, workers, json, silent)
        return
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


def _show_filtering(out: Path, data_dir: Path | None, workers: int, json: Path | None, silent: bool) -> None:
    with quiet(silent):
        rows = reproduce_filtering(out, data_dir=data_dir, workers=workers)
    frame = pd.DataFrame(map(asdict, rows)).pivot(index="influence", columns="setting", values="accuracy")
    lines = [[f"{weight:g}", *map(percent, line), percent(line.mean())] for weight, line in frame.iterrows()]
    columns("Validation accuracy after training again", ["influence", *frame.columns, "mean"], lines)
    write_json(json, {f"{row.setting} {row.influence:g}": row.accuracy for row in rows})
