"""`hydragrad reproduce hara`."""

from pathlib import Path
from typing import Annotated

import typer

from hydragrad.cli.console import columns, number, write_json
from hydragrad.cli.options import DataDir, Json, Quiet, named_among
from hydragrad.progress import quiet
from hydragrad.studies.hara import ESTIMATORS, MODELS, reproduce_hara, summary


def hara(
    out: Annotated[Path, typer.Option(help="Folder for runs and rows.")] = Path("runs/hara"),
    models: Annotated[str, typer.Option(help="Which models, with commas between.")] = ",".join(MODELS),
    estimators: Annotated[str, typer.Option(help="Which estimators, with commas between.")] = ",".join(ESTIMATORS),
    seeds: Annotated[int, typer.Option(min=1, help="How many: 0, 1, ...")] = 30,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Every single removal on MNIST's ones and sevens, predicted and real: the protocol of SGD-influence.

    A seed of one model takes about 20 seconds of processor time. Interrupted, the same command goes on after the last
    finished run.

    Example: hydragrad reproduce hara --models dnn --seeds 5
    """
    asked = named_among(models, MODELS, "--models")
    chosen = named_among(estimators, ESTIMATORS, "--estimators")
    with quiet(silent):
        rows = reproduce_hara(out, seeds=range(seeds), models=asked, estimators=chosen, data_dir=data_dir)
    lines = []
    figures = {}
    for model, estimator, runs, tau, jaccard, slope in summary(rows):
        spread = f"{tau.mean():.3f} ± {tau.std():.3f}"
        lines.append(
            (model, estimator, str(runs), spread, f"{jaccard.mean():.3f} ± {jaccard.std():.3f}", number(slope))
        )
        figures[f"{model} {estimator} tau"] = float(tau.mean())
        figures[f"{model} {estimator} jaccard"] = float(jaccard.mean())
    title = "every sample left out on its own: mean ± standard deviation over runs"
    headings = ("model", "estimator", "runs", "Kendall's tau", "Jaccard, 10 at each end", "median slope")
    columns(title, headings, lines, left=["model", "estimator"])
    write_json(json, figures)
