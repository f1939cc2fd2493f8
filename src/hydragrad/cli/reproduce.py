"""`hydragrad reproduce ...`: the paper's tables and figures."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from hydragrad.cli.console import console, number, say, write_json
from hydragrad.datasets import DATASETS
from hydragrad.errors import UnknownName
from hydragrad.models import MODELS
from hydragrad.progress import quiet
from hydragrad.studies import METHODS, NETWORKS, Setting, reproduce_figure1, reproduce_table4, reproduce_trust
from hydragrad.studies.recipes import RECIPES
from hydragrad.studies.table4 import FILTERING, summary

reproduce = typer.Typer(no_args_is_help=True, help="The paper's tables and figures, measured again.")


@reproduce.callback()
def _studies() -> None:
    """Keep the names of the studies as subcommands."""


@reproduce.command()
def figure1(
    out: Annotated[Path, typer.Option(help="Folder for measurements and picture.")] = Path("runs/figure1"),
    models: Annotated[str, typer.Option(help="Which models, with commas between.")] = ",".join(MODELS),
    counts: Annotated[str, typer.Option(help="Numbers of tracked samples.")] = "400,2000,10000",
    memory: Annotated[float, typer.Option(help="GiB that the eager oracle's rows may take.")] = 8.0,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures as JSON.")] = None,
    silent: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Time of a training step against the number of tracked samples: ours, and all rows at every step.

    Takes some minutes on one core; interrupted, the same command goes on after the last measurement.
    """
    asked = [name.strip() for name in models.split(",")]
    unknown = [name for name in asked if name not in MODELS]
    numbers = [each.strip() for each in counts.split(",")]
    wrong = [each for each in numbers if not each.isdigit() or int(each) < 1]
    if unknown or wrong:
        raise UnknownName(
            f"--models takes some of {', '.join(MODELS)} and --counts whole numbers, each with commas between; "
            f"{', '.join(unknown + wrong)} came."
        )
    with quiet(silent):
        found = reproduce_figure1(
            out, models=asked, counts=[int(each) for each in numbers], memory=round(memory * 2**30)
        )
    base = {row.model: row.seconds for row in found.timings if row.kind == "plain"}
    grid = Table(title="seconds of a training step, every sample of its batch tracked", title_justify="left", box=None)
    for heading in ("model", "batch", "tracked", "how", "columns", "step", "x plain", "a sample and parameter"):
        grid.add_column(heading, justify="left" if heading in ("model", "how") else "right")
    for row in found.timings:
        each = "" if row.per_sample_and_parameter is None else f"{row.per_sample_and_parameter:.1e}"
        grid.add_row(
            row.model,
            str(row.batch_size),
            f"{row.tracked:,}" if row.tracked else "",
            row.kind,
            f"{row.columns:,}" if row.columns else "",
            f"{row.seconds:.3g}",
            f"{row.seconds / base[row.model]:.1f}",
            each,
        )
    console.print(grid)
    for model, count in found.left_out:
        say(f"left out: {model}, {count:,} tracked, eager: its rows and velocities take more than {memory:g} GiB")
    say(f"picture: {found.picture}")
    figures = {
        f"{row.model}_{row.kind}{f'_{row.tracked}' if row.tracked else ''}_seconds": row.seconds
        for row in found.timings
    }
    write_json(json, figures)


@reproduce.command()
def trust(
    out: Annotated[Path, typer.Option(help="Folder for runs and rows.")] = Path("runs/trust"),
    data: Annotated[str, typer.Option(help=f"Data set: {', '.join(DATASETS)}.")] = "digits",
    networks: Annotated[str, typer.Option(help="Which networks, with commas between.")] = ",".join(NETWORKS),
    train_size: Annotated[int, typer.Option(min=10, help="Training samples.")] = 1000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over them.")] = 10,
    groups: Annotated[int, typer.Option(min=3, help="Random groups that are left out.")] = 30,
    share: Annotated[float, typer.Option(help="Share of the samples in a group.")] = 0.1,
    workers: Annotated[int, typer.Option(min=1, help="Processes that retrain at the same time.")] = 1,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", envvar="HYDRAGRAD_DATA", help="Data folder.")] = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the rows as JSON.")] = None,
    silent: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Predicted against actual removals on five kinds of network, and how smooth each run is.

    Interrupted, the same command goes on; retrainings are kept.
    """
    asked = [name.strip() for name in networks.split(",")]
    unknown = [name for name in asked if name not in NETWORKS]
    if unknown or data not in DATASETS:
        raise UnknownName(
            f"--networks takes some of {', '.join(NETWORKS)}, --data one of {', '.join(DATASETS)}; "
            f"{', '.join(unknown) or data} came."
        )
    with quiet(silent):
        rows = reproduce_trust(
            out,
            data=data,
            data_dir=data_dir,
            networks=asked,
            train_size=train_size,
            epochs=epochs,
            groups=groups,
            share=share,
            workers=workers,
        )
    grid = Table(
        title=f"{groups} random groups of {share:.0%} left out".replace("%", " %"), title_justify="left", box=None
    )
    for heading in (
        "network",
        "accuracy",
        "estimator",
        "LDS mean loss",
        "90 %",
        "LDS single",
        "slope",
        "cosine",
        "rounding",
    ):
        grid.add_column(
            heading, justify="left" if heading in ("network", "estimator") else "right", no_wrap=heading == "estimator"
        )
    for row in rows:
        grid.add_row(
            row.network,
            f"{row.test_accuracy:.3f}",
            row.estimator,
            number(row.lds_mean_loss),
            f"{number(row.low)} to {number(row.high)}",
            number(row.lds_single),
            number(row.slope),
            number(row.cosine),
            number(row.rounding_growth),
        )
    console.print(grid)
    write_json(json, {f"{row.network} {row.estimator} lds": row.lds_mean_loss for row in rows})


@reproduce.command()
def table4(
    data: Annotated[str, typer.Option(help=f"Data set: {', '.join(DATASETS)}.")] = "mnist",
    noise: Annotated[
        str,
        typer.Option(help="Share of uniform flips (0.5), of swaps between similar classes (swap-0.3), or human-worst."),
    ] = "0.5",
    train_size: Annotated[int | None, typer.Option(min=100, help="Training samples (default: all).")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over them (default: the paper's).")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many: 0, 1, ...")] = 5,
    model: Annotated[str, typer.Option(help=f"Model: {', '.join(MODELS)}.")] = "lenet5",
    methods: Annotated[str, typer.Option(help="Which rankings, with commas between.")] = ",".join(METHODS),
    filtering: Annotated[str, typer.Option(help="Those of them to train again after.")] = ",".join(FILTERING),
    out: Annotated[Path, typer.Option(help="Folder for runs and rows.")] = Path("runs/table4"),
    workers: Annotated[int, typer.Option(min=1, help="Processes for out-of-fold trainings.")] = 1,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", envvar="HYDRAGRAD_DATA", help="Data folder.")] = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the rows as JSON.")] = None,
    silent: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Wrong labels found by several methods, and what training again without them gives.

    A seed of the paper's setting takes about twenty trainings. Interrupted, the same command goes on after the last
    single training.
    """
    asked = _some(methods, METHODS, "--methods")
    after = _some(filtering, METHODS, "--filtering")
    if data not in DATASETS or model not in MODELS:
        raise UnknownName(
            f"--data takes one of {', '.join(DATASETS)}, --model one of {', '.join(MODELS)}; {data} and {model} came."
        )
    rows = []
    with quiet(silent):
        for seed in range(seeds):
            setting = Setting(
                data=data,
                noise=noise,
                size=train_size,
                epochs=epochs or RECIPES[data].epochs,
                seed=seed,
                model=model,
            )
            rows += reproduce_table4(out, setting, data_dir=data_dir, methods=asked, filtering=after, workers=workers)
    grid = Table(title=f"{data}, noise {noise}, {seeds} seeds", title_justify="left", box=None)
    for heading in summary([]).columns:
        grid.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for line in summary(rows).itertuples(index=False):
        grid.add_row(*line)
    console.print(grid)
    write_json(json, {f"{row.setting} {row.method} {row.action}": row.accuracy or row.auc for row in rows})


def _some(text: str, known: Collection[str], option: str) -> list[str]:
    """Names with commas between.

    Raises:
        UnknownName: One that is not known.
    """
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UnknownName(f"{option} takes some of {', '.join(known)}; {', '.join(unknown)} came.")
    return names
