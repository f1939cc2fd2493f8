"""`hydragrad explain`."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from rich.text import Text
from torch.utils.data import Dataset

from hydragrad.cli.console import columns, console, say, table, write_json
from hydragrad.cli.forecast import announce, duration, store_seconds
from hydragrad.cli.marked_tokens import LOSSES, marked, marked_samples
from hydragrad.cli.options import (
    CurvatureByData,
    DataDir,
    Json,
    Quiet,
    Run,
    SmoothingOption,
    TokenizerOption,
    named_among,
)
from hydragrad.cli.terminal_pictures import print_pictures
from hydragrad.cli.terminal_texts import one_line
from hydragrad.derivatives import BatchStatistics, LossOfParts
from hydragrad.errors import QueryError, RecordingMismatch
from hydragrad.experiments.experiment import Experiment
from hydragrad.experiments.from_settings import open_run
from hydragrad.experiments.saved_scores import saved_or_computed
from hydragrad.progress import quiet
from hydragrad.replay import Recording
from hydragrad.replay.histories import has_closed_form, run_histories
from hydragrad.reports.listing import given_labels
from hydragrad.reports.predictions import part_losses, predictions
from hydragrad.scores import AmountKind, Method, Scores, amounts_of, sample_losses
from hydragrad.tracking import Store, TopContributions, hypergradients
from hydragrad.tracking.facts import FILE

PROJECTION = 2048
"""Columns of a training sample's row in a new store."""

MOST_MILLISECONDS = 5000
"""What took longer is said in seconds."""

WHAT_IS_SHOWN: dict[AmountKind, str] = {
    "share": "Contributions are in percent of the sum of all sizes, as their scale was not measured: read the ranking.",
    "derivative": "Contributions are in the unit of the loss; whether they predict real changes was not checked.",
    "calibrated": "Contributions are in the unit of the loss, at the scale that really leaving groups out measured.",
}


def explain(
    run: Run,
    test: Annotated[int | None, typer.Option(help="Number of the test sample whose prediction to explain.")] = None,
    validation: Annotated[int | None, typer.Option(help="The same of the validation set.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many samples to show on either side.")] = 5,
    projection: Annotated[
        int | None,
        typer.Option(
            min=0,
            help=f"Columns of every training sample's row in the store; 0 for all of them, which takes much space. "
            f"(Default: those of the existing store, or {PROJECTION:,}.)",
        ),
    ] = None,
    batch_statistics: Annotated[
        str | None,
        typer.Option(
            help="For a network with BatchNorm, when its store is built: exact, a backward pass a sample (default); or "
            "frozen, as constants, which is fast and much less accurate."
        ),
    ] = None,
    curvature: CurvatureByData = None,
    smoothing: SmoothingOption = None,
    tokenizer: TokenizerOption = None,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Show which training samples moved one prediction, with small pictures of images, and texts as text.

    The first time, the rows of all training samples are computed by one replay and saved in RUN/store (if
    interrupted, the same command resumes); after that any sample is explained at once. Contributions are to the
    sample's loss, without curvature: positive helps; read the ranking, not the scale. Of optimizers, only runs of
    SGD and ASGD have such a store; others are attributed to each sample that is explained, once, and so are all runs
    with --curvature. Tokens of texts are marked by their contributions where the run is attributed; a store has none.

    Example: hydragrad explain runs/m --test 42
    """
    if (test is None) == (validation is None):
        raise QueryError("Say which prediction: --test NUMBER, or --validation NUMBER.")
    name, number = ("test", test) if test is not None else ("validation", validation)
    assert number is not None
    if batch_statistics is not None:
        named_among(batch_statistics, get_args(BatchStatistics), "--batch-statistics")
    statistics = cast(BatchStatistics | None, batch_statistics)
    experiment, recording = open_run(run, data_dir=data_dir, tokenizer=tokenizer)
    method = Method.of(curvature or experiment.curvature, smoothing=smoothing)
    with quiet(silent):
        explained = explain_sample(
            experiment, recording, name, number, top=top, projection=projection, statistics=statistics, method=method
        )
    show_explained(experiment, explained)
    write_json(json, explained.figures)


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A prediction and the training samples that moved it.

    Attributes:
        dataset: The data set of the sample.
        number: Which sample.
        top: The training samples that moved its loss most.
        method: How the contributions were computed.
        predicted: The predicted label and its probability, if the model classifies.
        label: Of the sample, where the loss has one.
        trained: Labels of the training samples in `top`, by sample, where the loss has them.
        scores: All contributions to the sample's loss, with those of parts where they were computed.
        losses: Of the sample's own parts, where it has parts.
        figures: Flat values for JSON.
    """

    dataset: Dataset[Any]
    number: int
    top: TopContributions
    method: Method
    predicted: tuple[int, float] | None
    label: int | None
    trained: Mapping[int, int | None]
    figures: dict[str, Any]
    scores: Scores
    losses: Sequence[float] | None = None


def explain_sample(
    experiment: Experiment,
    run: Recording,
    name: str,
    number: int,
    *,
    top: int,
    projection: int | None,
    statistics: BatchStatistics | None = None,
    method: Method | None = None,
) -> Explained:
    """Explain one prediction by the run's store, which is built if it does not exist.

    Runs without a closed form (of Adam, say) are attributed to the sample itself, and the scores saved; so are all
    runs with a method other than the default.

    Args:
        experiment: Data, loss and fresh starts.
        run: The run.
        name: Data set of the sample.
        number: Which sample.
        top: How many training samples on either side.
        projection: Columns of a training sample's row, 0 for all; None for those of the existing store.
        statistics: Of BatchNorm's batches; None for those of the existing store, else exact.
        method: How contributions are computed; None is without curvature.

    Raises:
        QueryError: No such sample.
    """
    dataset = experiment.data_set(name)
    query = sample_losses(dataset, [number])
    method = method or Method()
    by_store = method == Method() and _has_closed_form(run)
    store = _store(experiment, run, projection, statistics) if by_store else None
    begin = time.monotonic()
    if store is None:  # rows would need every column, at every step of the run
        parts = experiment.pieces is not None and isinstance(run.loss, LossOfParts)
        scores = saved_or_computed(experiment, run, f"{name}:{number}", method, parts=parts)
    else:
        scores = cast(Scores, store.contributions(query))
    extremes = _extremes(scores, min(top, len(scores.sample_ids)))
    seconds = time.monotonic() - begin
    says = predictions(run, dataset, [number])
    predicted = None if says.predicted is None or says.sure is None else (int(says.predicted[0]), float(says.sure[0]))
    trained = [*extremes.helpful_ids[0].tolist(), *extremes.harmful_ids[0].tolist()]
    figures: dict[str, Any] = {
        "run": str(run.path),
        "sample": f"{name}:{number}",
        "loss": extremes.query_values[0].item(),
        "most_helpful": extremes.helpful_ids[0].tolist(),
        "helpful_contributions": extremes.helpful[0].tolist(),
        "most_harmful": extremes.harmful_ids[0].tolist(),
        "harmful_contributions": extremes.harmful[0].tolist(),
        "seconds": seconds,
    }
    if store is not None and extremes.helpful_noise is not None and extremes.harmful_noise is not None:
        figures["columns"] = store.rows.shape[1]
        figures["helpful_standard_errors"] = extremes.helpful_noise[0].tolist()
        figures["harmful_standard_errors"] = extremes.harmful_noise[0].tolist()
    if predicted is not None:
        figures |= {"predicted": predicted[0], "probability": predicted[1]}
    return Explained(
        dataset=dataset,
        number=number,
        top=extremes,
        method=method,
        predicted=predicted,
        label=None if says.given is None else int(says.given[0]),
        trained=dict(zip(trained, given_labels(run, trained), strict=True)),
        figures=figures,
        scores=scores,
        losses=part_losses(run, dataset, number) if isinstance(run.loss, LossOfParts) else None,
    )


def show_explained(experiment: Experiment, explained: Explained) -> None:
    """Print the sample and the training samples that moved it."""
    figures, item = explained.figures, explained.dataset[explained.number]
    label, text = _class_name(experiment, explained.label), _text(experiment, item)
    rows: dict[str, str | Text] = {"loss": f"{figures['loss']:.4f}", "answered in": _took(figures["seconds"])}
    if label is not None:
        rows = {"label": label, **rows}
    if text is not None:
        rows = {"text": text, **rows}
    if experiment.pieces is not None and explained.losses is not None:
        rows["loss by token"] = marked(experiment.pieces(item), explained.losses, number=".2f", positive=LOSSES)
    if explained.predicted is not None:
        rows["predicted"] = f"{_class_name(experiment, explained.predicted[0])} ({100 * explained.predicted[1]:.1f} %)"
    table(figures["sample"], rows)
    amounts = amounts_of(explained.scores, 0)
    with_pictures = experiment.shown is not None and console.is_terminal
    if with_pictures:
        _print_items(experiment, [item], [""])
    for title, side in (
        ("helped most: leaving one out would raise this loss", "helpful"),
        ("harmed most: leaving one out would lower this loss", "harmful"),
    ):
        ids, contributions = figures[f"most_{side}"], figures[f"{side}_contributions"]
        errors = figures.get(f"{side}_standard_errors", [None] * len(ids))
        samples = [
            (str(i), _class_name(experiment, explained.trained[i]) or "", amounts.text(contribution, error))
            for i, contribution, error in zip(ids, contributions, errors, strict=True)
        ]
        if with_pictures:
            say(f"\n{title}")
            items = [experiment.train_set[i] for i in ids]
            _print_items(experiment, items, [f"{i}: {label}\n{contribution}" for i, label, contribution in samples])
        elif text is not None:
            if experiment.pieces is not None and explained.scores.part_contributions is not None:
                lines = marked_samples(experiment.pieces, experiment.train_set, explained.scores, ids, amounts)
                marked_cells = [
                    (i, contribution, line) for (i, _, contribution), (*_, line) in zip(samples, lines, strict=True)
                ]
                columns(title, ("sample", "contribution", "text"), marked_cells, left={"text"})
                continue
            texts = [_text(experiment, experiment.train_set[i]) or "" for i in ids]
            cells = [(i, contribution, words) for (i, _, contribution), words in zip(samples, texts, strict=True)]
            columns(title, ("sample", "contribution", "text"), cells, left={"text"})
        elif any(label for _, label, _ in samples):
            columns(title, ("sample", "label", "contribution"), samples)
        else:
            columns(title, ("sample", "contribution"), [(i, contribution) for i, _, contribution in samples])
    say(f"\nCurvature {explained.method.in_words}. {WHAT_IS_SHOWN[amounts.kind]}")
    if "columns" in figures:
        say(
            f"They are estimates, from rows projected to {figures['columns']:,} columns; ± is the standard error of "
            f"the projection. For exact ones, delete {figures['run']}/store and use --projection 0."
        )


def _took(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms" if seconds < MOST_MILLISECONDS / 1e3 else duration(seconds)


def _has_closed_form(run: Recording) -> bool:
    return has_closed_form(run, run_histories(run))


def _extremes(scores: Scores, count: int) -> TopContributions:
    errors = scores.standard_errors
    helpful, harmful = (scores.values.topk(count, dim=1, largest=largest) for largest in (True, False))
    return TopContributions(
        query_names=scores.query_names,
        query_values=scores.query_values,
        helpful_ids=scores.sample_ids[helpful.indices],
        helpful=helpful.values,
        harmful_ids=scores.sample_ids[harmful.indices],
        harmful=harmful.values,
        helpful_noise=None if errors is None else errors.gather(1, helpful.indices),
        harmful_noise=None if errors is None else errors.gather(1, harmful.indices),
    )


def _store(experiment: Experiment, run: Recording, projection: int | None, statistics: BatchStatistics | None) -> Store:
    folder = run.path / "store"
    if (folder / FILE).exists():
        store = Store.open(folder, run.model, run.loss)
        _require_same_options(store, folder, len(run.steps), projection, statistics)
        return store
    projection = PROJECTION if projection is None else projection or None
    statistics = statistics or "exact"
    seconds = store_seconds(run, statistics)
    announce("building the store", seconds, _bytes(experiment, run, projection), always=False)
    say(f"building {folder}, once")
    return hypergradients(run, projection=projection, store=folder, batch_statistics=statistics)


def _require_same_options(
    store: Store, folder: Path, steps: int, projection: int | None, statistics: BatchStatistics | None
) -> None:
    """Refuse a store of other options, or of another part of the run.

    Raises:
        RecordingMismatch: Names them.
    """
    built_statistics = store.facts.batch_statistics
    built_projection = (store.facts.projection and store.facts.projection["dims"]) or 0
    if statistics not in (None, built_statistics):
        raise RecordingMismatch(
            f"{folder} was built with --batch-statistics {built_statistics}, not {statistics}. Use that, or delete the "
            f"store."
        )
    if store.facts.steps != steps or projection not in (None, built_projection):
        expected = built_projection if projection is None else projection
        raise RecordingMismatch(
            f"{folder} was built with --projection {built_projection} after {store.facts.steps:,} steps, not with "
            f"--projection {expected} after {steps:,} steps. Use that projection, or delete the store."
        )


def _bytes(experiment: Experiment, run: Recording, projection: int | None) -> int:
    size = sum(parameter.numel() for parameter in run.model.parameters())
    return 4 * len(experiment.train_set) * min(size, projection or size)  # type: ignore[arg-type]


def _class_name(experiment: Experiment, label: int | None) -> str | None:
    if label is None:
        return None
    return experiment.classes[label] if experiment.classes and label < len(experiment.classes) else str(label)


def _text(experiment: Experiment, item: Any) -> str | None:
    """The item as one line, if the data are texts."""
    words = experiment.render(item) if experiment.render is not None else None
    return one_line(words) if isinstance(words, str) else None


def _print_items(experiment: Experiment, items: list[Any], captions: list[str]) -> None:
    assert experiment.shown is not None
    print_pictures(console, [experiment.shown(item[0]) for item in items], captions)
