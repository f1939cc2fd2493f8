"""`hydragrad influence`."""

from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from hydragrad.attribution import influence as influence_scores
from hydragrad.checkpoint_rows import InfluenceStore
from hydragrad.cleaning import suspects as rank_suspects
from hydragrad.cli.console import say, table, write_json
from hydragrad.cli.forecast import announce, influence_seconds
from hydragrad.cli.options import (
    DryRun,
    ExecutorName,
    Json,
    Part,
    Quiet,
    RayAddress,
    Workers,
    end_slice,
    keywords_of,
)
from hydragrad.disk import make_folder
from hydragrad.errors import LossError, Unfinished
from hydragrad.experiments.elsewhere import Elsewhere, open_elsewhere
from hydragrad.progress import quiet
from hydragrad.reports import report
from hydragrad.scores import MEANING, Query, Scores

SHOWN = 5


def influence(
    states: Annotated[
        list[Path],
        typer.Argument(
            metavar="CHECKPOINT...",
            help="Files (.safetensors, .pt, .bin, .ckpt) or Hugging Face folders, in the order of training.",
        ),
    ],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="MODULE:FUNCTION",
            help="Your own: function() returns (model, loss, train_set), or what `hydragrad train` takes; a dict of "
            "held-out data sets may come last.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for scores, suspects and report.")],
    query: Annotated[
        list[str],
        typer.Option(help="validation, test, train, or one sample as in test:42; several are allowed."),
    ] = ["validation"],  # noqa: B006 - typer copies it
    checkpoints: Annotated[int, typer.Option(min=1, help="Average over so many of the states, at most.")] = 10,
    damping: Annotated[
        float | None,
        typer.Option(min=0, help="Added to the Gauss-Newton matrix (default: 0.01 of its largest eigenvalue)."),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Answer from rows of all samples in this folder; made if there are none, for later queries without "
            "another pass. By an approximate inverse.",
        ),
    ] = None,
    projection: Annotated[
        int | None, typer.Option(min=1, help="Project the rows to about so many columns (default: whole rows).")
    ] = None,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    part: Part = None,
    json: Json = None,
    dry_run: DryRun = False,
    silent: Quiet = False,
) -> None:
    """Score training samples of a model trained elsewhere, by influence functions at its checkpoints.

    Writes FOLDER/scores/, and for the first query FOLDER/suspects.csv and FOLDER/report.html. Positive helps; read the
    ranking, since the scale is not measured. Code in a checkpoint is never run.

    Example: hydragrad influence --from my_training:setup epoch1.pt epoch2.pt --query validation --out influence
    """
    where = keywords_of(executor, ray_address, workers, part)
    if projection is not None and rows is None:
        raise typer.BadParameter("--projection is of the rows: name their folder, --rows FOLDER.")
    if rows is not None and (executor is not None or part is not None):
        raise typer.BadParameter("--rows are made in this process: leave --executor and --part out.")
    opened = open_elsewhere(source, states)
    queries = {text: opened.query(text) for text in query}
    announce("influence", influence_seconds(opened.checkpoints, checkpoints, len(query)), 0, always=dry_run)
    if dry_run:
        return
    make_folder(out / "scores")
    figures: dict[str, Any] = {
        "checkpoints": len(opened.checkpoints),
        "samples": len(opened.checkpoints.train_set),  # type: ignore[arg-type]
        "digest": opened.checkpoints.digest,
    }
    every = {}
    missing: list[Unfinished] = []
    with quiet(silent):
        store = None
        if rows is not None:
            store = opened.rows(rows, checkpoints=checkpoints, damping=damping, projection=projection)
    options = {"checkpoints": checkpoints, "damping": damping, "out": out / "scores", **where}
    for text, scored in queries.items():
        try:
            with quiet(silent):
                scores = _scored(opened, store, scored, options)
        except Unfinished as error:
            missing.append(error)
            continue
        every[text] = scores
        path = out / "scores" / f"{text}-influence.safetensors"
        scores.save(path)
        figures |= _show(text, scores, path)
    end_slice(missing)
    for note in every[query[0]].evidence.notes:
        say(f"note: {note.text}")
    figures |= _pages(opened, every[query[0]], out, silent=silent)
    write_json(json, figures)


def _scored(opened: Elsewhere, store: InfluenceStore | None, query: Query, options: dict[str, Any]) -> Scores:
    if store is None:
        return influence_scores(opened.checkpoints, query, **options)
    scores = store.contributions(query)
    assert isinstance(scores, Scores)
    return scores


def _show(text: str, scores: Scores, path: Path) -> dict[str, Any]:
    """Print what is in the scores of a query; return its figures."""
    value = scores.query_values[0].item()
    harmful, helpful = scores.most_harmful(SHOWN, 0), scores.most_helpful(SHOWN, 0)
    rows = {
        scores.query_names[0]: f"{value:.4f}",
        "most harmful samples": ", ".join(map(str, harmful)),
        "most helpful samples": ", ".join(map(str, helpful)),
        "written": str(path),
    }
    table(f"{MEANING}, influence functions", rows)
    return {
        f"{text} value": value,
        f"{text} scores": str(path),
        f"{text} most harmful": harmful,
        f"{text} most helpful": helpful,
    }


def _pages(opened: Elsewhere, scores: Scores, out: Path, *, silent: bool) -> dict[str, str]:
    """Write suspects and report of one query."""
    suspects_file, page = out / "suspects.csv", out / "report.html"
    with quiet(silent):
        suspects = _suspects(opened, scores)
        if suspects is not None:
            suspects.to_csv(suspects_file, index=False)
        report(opened.checkpoints, scores, page, suspects=suspects)
    written = {"report": str(page)} | ({} if suspects is None else {"suspects": str(suspects_file)})
    say("\n".join(f"{name}: {path}" for name, path in written.items()))
    return written


def _suspects(opened: Elsewhere, scores: Scores) -> pd.DataFrame | None:
    try:
        return rank_suspects(opened.checkpoints, scores)
    except LossError as error:
        say(f"no suspects: {error}")
        return None
