"""`hydragrad explain`."""

from typing import Annotated, cast, get_args

import typer

from hydragrad.cli.console import write_json
from hydragrad.cli.experiment import open_run
from hydragrad.cli.explain import PROJECTION, explained, show_explained
from hydragrad.cli.options import DataDir, Json, Quiet, Run, named_among
from hydragrad.derivatives import BatchStatistics
from hydragrad.errors import QueryError
from hydragrad.progress import quiet


def explain(
    run: Run,
    test: Annotated[int | None, typer.Option(help="Number of the test sample whose prediction to explain.")] = None,
    validation: Annotated[int | None, typer.Option(help="The same of the validation set.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many samples to show on either side.")] = 5,
    projection: Annotated[
        int | None,
        typer.Option(
            min=0,
            help=f"Columns kept of every training sample's row; 0 keeps them all, which is large. (Default: those of "
            f"the store that is there, or {PROJECTION:,}.)",
        ),
    ] = None,
    batch_statistics: Annotated[
        str | None,
        typer.Option(
            help="Of a network with BatchNorm, when its store is built: exact, a backward pass a sample (default); or "
            "frozen, as constants, which is quick and far less right."
        ),
    ] = None,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Show which training samples moved one prediction, with small pictures where the data are pictures.

    The first time, the rows of all training samples are computed by one replay and kept in RUN/store (interrupted,
    the same command goes on); after that any sample is explained at once. Contributions are to the sample's loss,
    without curvature: positive helps; read the ranking, not the scale.

    Example: hydragrad explain runs/m --test 42
    """
    if (test is None) == (validation is None):
        raise QueryError("Say which prediction: --test NUMBER, or --validation NUMBER.")
    name, number = ("test", test) if test is not None else ("validation", validation)
    assert number is not None
    if batch_statistics is not None:
        named_among(batch_statistics, get_args(BatchStatistics), "--batch-statistics")
    statistics = cast(BatchStatistics | None, batch_statistics)
    asked, opened = open_run(run, data_dir=data_dir)
    with quiet(silent):
        found = explained(asked, opened, name, number, top=top, projection=projection, statistics=statistics)
    show_explained(asked, found)
    write_json(json, found.figures)
