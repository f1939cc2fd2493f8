"""`hydragrad demo`."""

from pathlib import Path
from typing import Annotated

import typer

from hydragrad.cli.console import write_json
from hydragrad.cli.demo import run_demo
from hydragrad.cli.options import Json, Quiet
from hydragrad.progress import quiet


def demo(
    out: Annotated[Path, typer.Option(help="Where the run and its report are written.")] = Path("runs/demo"),
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """The main job on an embedded data set, in a minute or two; writes OUT/report.html.

    Flips 40 % of the labels of 1,000 images of digits, trains LeNet-5, finds the flipped ones by their
    contributions, cleans, retrains, and checks predictions by really retraining without groups of samples.

    Example: hydragrad demo --out runs/demo
    """
    with quiet(silent):
        write_json(json, run_demo(out))
