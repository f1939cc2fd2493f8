"""`hydragrad reproduce figure1`."""

from pathlib import Path
from typing import Annotated

import typer

from hydragrad.cli.console import columns, say, write_json
from hydragrad.cli.options import Json, Quiet
from hydragrad.errors import UnknownName
from hydragrad.models import MODELS
from hydragrad.progress import quiet
from hydragrad.studies import reproduce_figure1


def figure1(
    out: Annotated[Path, typer.Option(help="Folder for measurements and picture.")] = Path("runs/figure1"),
    models: Annotated[str, typer.Option(help="Which models, with commas between.")] = ",".join(MODELS),
    counts: Annotated[str, typer.Option(help="Numbers of tracked samples.")] = "400,2000,10000",
    memory: Annotated[float, typer.Option(help="GiB that the eager oracle's rows may take.")] = 8.0,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Time of a training step against the number of tracked samples: ours, and all rows at every step.

    Takes some minutes on one core; interrupted, the same command goes on after the last measurement.

    Example: hydragrad reproduce figure1 --models lenet5 --counts 400,2000
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
    rows = [
        (
            row.model,
            str(row.batch_size),
            f"{row.tracked:,}" if row.tracked else "",
            row.kind,
            f"{row.columns:,}" if row.columns else "",
            f"{row.seconds:.3g} s",
            f"{row.seconds / base[row.model]:.1f}",
            "" if row.per_sample_and_parameter is None else f"{row.per_sample_and_parameter:.1e} s",
        )
        for row in found.timings
    ]
    headings = ("model", "batch", "tracked", "how", "columns", "step", "x plain", "sample & parameter")
    columns("a training step, every sample of its batch tracked", headings, rows, left=["model", "how"])
    for model, count in found.left_out:
        say(f"left out: {model}, {count:,} tracked, eager: its rows and velocities take more than {memory:g} GiB")
    say(f"picture: {found.picture}")
    figures = {
        f"{row.model}_{row.kind}{f'_{row.tracked}' if row.tracked else ''}_seconds": row.seconds
        for row in found.timings
    }
    write_json(json, figures)
