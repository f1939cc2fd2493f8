"""`hydragrad reproduce dattri`."""

from pathlib import Path
from typing import Annotated

import typer

from hydragrad.cli.console import columns, number, write_json
from hydragrad.cli.options import DataDir, Json, Quiet, named_among
from hydragrad.progress import quiet
from hydragrad.studies.dattri import TRAININGS, DattriSetting, reproduce_dattri
from hydragrad.studies.estimates import ESTIMATORS


def dattri(
    out: Annotated[Path, typer.Option(help="Folder for networks, runs and rows.")] = Path("runs/dattri"),
    models: Annotated[str, typer.Option(help="Which models, with commas between.")] = ",".join(TRAININGS),
    estimators: Annotated[str, typer.Option(help="Which estimators, with commas between.")] = ",".join(ESTIMATORS),
    subsets: Annotated[int, typer.Option(min=3, help="Networks trained on random halves.")] = 100,
    ceilings: Annotated[int, typer.Option(min=0, help="Of these halves, trained again with another seed.")] = 50,
    removals: Annotated[int, typer.Option(min=0, help="Single samples removed (0: no LOO).")] = 100,
    queries: Annotated[int, typer.Option(min=1, max=500, help="Test images asked about.")] = 50,
    runs: Annotated[int, typer.Option(min=1, help="Runs to average contributions over.")] = 1,
    tuning: Annotated[bool, typer.Option("--tuning", help="Ask about other test images; nothing is reported.")] = False,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Random halves and single removals on dattri's MNIST settings.

    Fifty exact queries of the MLP take about ten minutes of processor time a run, a hundred networks about five.
    Interrupted, the same command goes on; answers of networks, runs and contributions are kept.

    Example: hydragrad reproduce dattri --models logistic --estimators hessian --queries 10
    """
    asked = named_among(models, TRAININGS, "--models")
    chosen = named_among(estimators, ESTIMATORS, "--estimators")
    rows = []
    with quiet(silent):
        for model in asked:
            setting = DattriSetting(
                model=model,
                subsets=subsets,
                ceilings=ceilings,
                removals=removals,
                queries=queries,
                runs=runs,
                estimators=tuple(chosen),
                tuning=tuning,
            )
            rows += reproduce_dattri(out, setting, data_dir=data_dir)
    columns(
        f"{queries} test losses; correlation and 90 % interval",
        ("model", "estimator", "runs", "metric", "correlation", "90 %", "of"),
        [
            (
                row.model,
                row.estimator,
                str(row.runs),
                row.metric,
                number(row.value),
                f"{number(row.low)} to {number(row.high)}",
                str(row.subsets),
            )
            for row in rows
        ],
        left=["model", "estimator", "metric"],
    )
    write_json(json, {f"{row.model} {row.estimator} {row.runs} {row.metric}": row.value for row in rows})
