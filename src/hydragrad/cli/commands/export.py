"""`hydragrad export`."""

from pathlib import Path
from typing import Annotated

import typer

from hydragrad.cli.console import say, write_json
from hydragrad.cli.forecast import announce, ranking_seconds, training_seconds
from hydragrad.cli.options import CurvatureOption, DataDir, DryRun, Json, Quiet, Run, Seeds, SmoothingOption
from hydragrad.errors import NotWritable, QueryError
from hydragrad.experiments.clean_and_retrain import ranked_suspects
from hydragrad.experiments.from_settings import open_run
from hydragrad.experiments.saved_scores import saved_or_computed
from hydragrad.experiments.training import plan_of
from hydragrad.labelling import export_suspects
from hydragrad.labelling.exporting import MOST, Format
from hydragrad.progress import quiet
from hydragrad.scores import Method

NAMES: dict[Format, str] = {"csv": "to-label.csv", "label-studio": "label-studio", "fiftyone": "fiftyone"}
"""Files and folders in the run directory."""

NEXT: dict[Format, str] = {
    "csv": "Fill in the column label (a name or a number) of the samples that you decide on",
    "label-studio": "Make a project with config.xml as the code of its labelling interface, import tasks.json, and "
    "export what you annotated as JSON",
    "fiftyone": "Open it with fiftyone.Dataset.from_dir(FOLDER, fiftyone.types.FiftyOneDataset); change ground_truth, "
    "or tag samples fixed (the suggested label is right) or fine; and export it as FiftyOneDataset",
}


def export(
    run: Run,
    to: Annotated[
        Format,
        typer.Option(
            help="csv: a table with an empty column label; label-studio: a folder with tasks and labelling config; "
            "fiftyone: a folder that it reads as a FiftyOneDataset."
        ),
    ] = "csv",
    out: Annotated[
        Path | None,
        typer.Option(
            help="File (csv) or folder to write, which must not be there yet (default: RUN/to-label.csv, "
            "RUN/label-studio or RUN/fiftyone)."
        ),
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="How many suspects to write, at most.")] = MOST,
    curvature: CurvatureOption = "none",
    smoothing: SmoothingOption = None,
    folds: Annotated[
        int, typer.Option(min=0, help="Also use this many networks, each trained without a part of the samples.")
    ] = 0,
    query: Annotated[str, typer.Option(help="Held-out data to help: validation or test.")] = "validation",
    seeds: Seeds = 1,
    data_dir: DataDir = None,
    json: Json = None,
    dry_run: DryRun = False,
    silent: Quiet = False,
) -> None:
    """Write the most suspect samples for the tool in which you mend labels.

    Pictures are written with them; suggested labels are predictions in Label Studio and a field in FiftyOne. Scores are
    computed if they are not there. What you decided comes back by hydragrad clean RUN --labels FILE.

    Example: hydragrad export runs/m --to label-studio
    """
    place = out or run / NAMES[to]
    if place.exists():
        raise NotWritable(
            f"{place} is there already, and may hold decisions. Name another place (--out), or delete it."
        )
    experiment, recording = open_run(run, data_dir=data_dir)
    if experiment.is_text:
        raise QueryError(
            f"{experiment.settings.data} has no labels to mend. See its most harmful samples: hydragrad report {run}"
        )
    method = Method.of(curvature, smoothing=smoothing)
    training = training_seconds(experiment, plan_of(experiment)) if folds or seeds > 1 else 0.0
    seconds = ranking_seconds(experiment, recording, query, method, seeds=seeds, folds=folds, training=training)
    announce("ranking", seconds, 0, always=dry_run)
    if dry_run:
        return
    with quiet(silent):
        scores = saved_or_computed(experiment, recording, query, method, seeds=seeds)
        ranked = ranked_suspects(experiment, recording, scores, query, folds=folds)
        export_suspects(
            recording, ranked, place, format=to, classes=experiment.classes, render=experiment.render, most=most
        )
    written = min(most, len(ranked))
    say(f"suspects: {place} (the first {written:,} of {len(ranked):,} samples)")
    say(f"{NEXT[to]}. Then: hydragrad clean {run} --labels {place if to == 'csv' else 'EXPORTED'}")
    write_json(json, {"written": str(place), "suspects": written, "samples": len(ranked)})
