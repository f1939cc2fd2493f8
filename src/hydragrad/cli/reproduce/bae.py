"""`hydragrad reproduce bae`."""

from pathlib import Path
from typing import Annotated

import typer

from hydragrad.cli.console import columns, number, write_json
from hydragrad.cli.options import DataDir, Json, Quiet, named_among
from hydragrad.progress import quiet
from hydragrad.studies.bae import BaeSetting, reproduce_bae
from hydragrad.studies.estimates import ESTIMATORS


def bae(
    out: Annotated[Path, typer.Option(help="Folder for networks, runs and rows.")] = Path("runs/bae"),
    estimators: Annotated[str, typer.Option(help="Which estimators, with commas between.")] = ",".join(ESTIMATORS),
    subsets: Annotated[int, typer.Option(min=3, help="Random halves.")] = 30,
    seeds: Annotated[int, typer.Option(min=1, help="Networks trained on each half.")] = 2,
    queries: Annotated[int, typer.Option(min=1, help="Test images asked about.")] = 16,
    runs: Annotated[int, typer.Option(min=1, help="Runs to average contributions over.")] = 1,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Random halves on the Fashion-MNIST setting of SOURCE.

    A network takes about seven seconds of processor time, ten exact queries about three minutes a run. Interrupted, the
    same command goes on; answers of networks, runs and contributions are kept.

    Example: hydragrad reproduce bae --subsets 10 --seeds 2 --queries 4 --estimators hessian
    """
    chosen = named_among(estimators, ESTIMATORS, "--estimators")
    setting = BaeSetting(subsets=subsets, seeds=seeds, queries=queries, runs=runs, estimators=tuple(chosen))
    with quiet(silent):
        rows = reproduce_bae(out, setting, data_dir=data_dir)
    columns(
        f"{queries} test margins; {subsets} halves, margins averaged over {seeds} seeds",
        ("estimator", "runs", "LDS", "90 %"),
        [(row.estimator, str(row.runs), number(row.lds), f"{number(row.low)} to {number(row.high)}") for row in rows],
        left=["estimator"],
    )
    write_json(json, {f"{row.estimator} {row.runs} lds": row.lds for row in rows})
