"""`hydragrad attribute`."""

import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from hydragrad.cli.console import say, table, write_json
from hydragrad.cli.forecast import (
    announce,
    attribution_seconds,
    duration,
    query_seconds,
    training_disk,
    training_seconds,
)
from hydragrad.cli.marked_tokens import show_tokens
from hydragrad.cli.options import (
    CurvatureByData,
    DataDir,
    DryRun,
    ExecutorName,
    Json,
    Part,
    Quiet,
    RayAddress,
    RemovalOption,
    Run,
    Seeds,
    SmoothingOption,
    TokenizerOption,
    Workers,
    end_slice,
    jobs_at_a_time,
    keywords_of,
)
from hydragrad.errors import Unfinished
from hydragrad.experiments.from_settings import open_run
from hydragrad.experiments.saved_scores import compute_scores, saved_or_computed, scores_path
from hydragrad.experiments.training import checkpoints_every, plan_of
from hydragrad.progress import quiet
from hydragrad.scores import Method, Scores, amounts_of


def attribute(
    run: Run,
    query: Annotated[
        list[str],
        typer.Option(help="validation, test, train, or one sample as in test:42; several are allowed."),
    ] = ["validation"],  # noqa: B006 - typer copies it
    curvature: CurvatureByData = None,
    damping: Annotated[float, typer.Option(min=0, help="Added to the curvature, times the identity.")] = 0.0,
    smoothing: SmoothingOption = None,
    replays: Annotated[
        int,
        typer.Option(min=0, help="Average over replays that each leave out a random tenth; for runs with kinks."),
    ] = 0,
    removal: RemovalOption = "weight",
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    part: Part = None,
    queries_at_once: Annotated[
        int | None,
        typer.Option(min=1, help="Scalars that share a pass (default: as many as fit); fewer give more jobs."),
    ] = None,
    labels: Annotated[
        bool | None,
        typer.Option("--labels/--no-labels", help="Contributions of every label (default: where possible)."),
    ] = None,
    parts: Annotated[
        bool, typer.Option("--parts", help="Of texts, also the contribution of every token of every sequence.")
    ] = False,
    tokenizer: TokenizerOption = None,
    seeds: Seeds = 1,
    data_dir: DataDir = None,
    json: Json = None,
    dry_run: DryRun = False,
    silent: Quiet = False,
) -> None:
    """Attribute the trained model's loss to single training samples; writes RUN/scores/.

    A contribution is how much the loss would rise, to first order, had the sample not been trained on: positive
    helps. If interrupted, the same command resumes.

    Example: hydragrad attribute runs/m --query validation --query test:42
    """
    experiment, recording = open_run(run, data_dir=data_dir, tokenizer=tokenizer)
    curvature = curvature or experiment.curvature
    method = Method.of(curvature, damping=damping, smoothing=smoothing, replays=replays, removal=removal)
    where = keywords_of(executor, ray_address, workers, part)
    segments = curvature == "none" and all(rule.closed_form is not None for rule in recording.rules)
    parallel = jobs_at_a_time(where) if segments or max(replays, seeds) > 1 else 1
    seconds = attribution_seconds(recording, method) * len(query) * seeds / parallel
    seconds += seeds * sum(query_seconds(experiment, recording.trained_model(), text) for text in query)
    plan = plan_of(experiment)
    seconds += training_seconds(experiment, plan) * (seeds - 1) / parallel
    disk = (seeds - 1) * training_disk(experiment, plan, checkpoints_every(experiment))
    announce("attribution", seconds, disk, always=dry_run)
    if dry_run:
        return
    figures: dict[str, Any] = {"run": str(run), "curvature": curvature, "seeds": seeds}
    missing: list[Unfinished] = []
    for text in query:
        begin = time.monotonic()
        try:
            with quiet(silent):
                # A slice that comes late has nothing to do.
                take = compute_scores if part is None else saved_or_computed
                scores = take(
                    experiment,
                    recording,
                    text,
                    method,
                    labels=labels,
                    parts=parts,
                    seeds=seeds,
                    where=where,
                    queries_at_once=queries_at_once,
                )
        except Unfinished as error:
            missing.append(error)
            continue
        path = scores_path(run, text, method, seeds)
        name = scores.query_names[0]
        harmful, helpful = scores.most_harmful(5, 0), scores.most_helpful(5, 0)
        rows = {
            name: f"{scores.query_values[0]:.4f}",
            "most harmful samples": _with_errors(scores, harmful),
            "most helpful samples": _with_errors(scores, helpful),
            "replay": "equal to the bit"
            if scores.evidence.replay_exact
            else f"drifted by {scores.evidence.replay_drift:.1e}",
            "written": str(path),
            "took": duration(time.monotonic() - begin),
        }
        table(f"{amounts_of(scores, 0).meaning}, curvature {method.in_words}", rows)
        if experiment.pieces is not None and scores.part_contributions is not None:
            show_tokens(experiment.pieces, experiment.train_set, scores, [*harmful[:3], *helpful[:3]])
        for note in scores.evidence.notes:
            say(f"note: {note.text}")
        figures |= {
            f"{text} value": scores.query_values[0].item(),
            f"{text} scores": str(path),
            f"{text} most harmful": harmful,
            f"{text} most helpful": helpful,
            f"{text} seconds": time.monotonic() - begin,
        }
    end_slice(missing)
    following = "report" if experiment.is_text else "clean"
    options = "" if curvature == experiment.curvature or following == "clean" else f" --curvature {curvature}"
    say(f"next: hydragrad {following} {run}{options}")
    write_json(json, figures)


def _with_errors(scores: Scores, samples: Sequence[int]) -> str:
    """Samples, with mean and standard error where there is one."""
    if scores.standard_errors is None:
        return ", ".join(map(str, samples))
    column = {sample: number for number, sample in enumerate(scores.sample_ids.tolist())}
    values, errors, amounts = scores.values[0].tolist(), scores.standard_errors[0].tolist(), amounts_of(scores, 0)
    return ", ".join(f"{i} ({amounts.text(values[column[i]], errors[column[i]])})" for i in samples)
