"""`ensemble`: contributions with intervals, from independent runs of the same training."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hydragrad.attribution.attribute import attribute
from hydragrad.attribution.gradients import query_point
from hydragrad.derivatives import Layout
from hydragrad.errors import QueryError, RecordingMismatch, Unfinished
from hydragrad.execution import HERE, Execution, ExecutorOption, PartOption, execution_of, run_jobs
from hydragrad.execution.claims import Claims, claimed
from hydragrad.execution.folders import Listing, shared_folder
from hydragrad.progress import bar
from hydragrad.randomness import preserved
from hydragrad.replay import Recording
from hydragrad.runs.kept import Kept, Key
from hydragrad.runs.kept_jobs import unfinished
from hydragrad.scores import Curvature, Evidence, Method, Note, Query, Removal, Scores, queries_of
from hydragrad.scores.spread import agreement_of_means, mean_and_standard_error, rank_agreement, runs_needed
from hydragrad.surroundings import in_clean_surroundings, users_default_device

FOLDER = "members"
CONVERGED = 0.9
"""Rank correlation between two means from which the ranking counts as converged."""

Make = Callable[[int, Path], Recording]
"""`make(seed, folder)` trains and records one run in `folder`, or opens the run that is already there."""


@in_clean_surroundings
def ensemble(
    make: Make,
    query: Query | Sequence[Query],
    *,
    seeds: int | Sequence[int],
    out: str | Path,
    curvature: Curvature = "none",
    damping: float = 0.0,
    smoothing: float | None = None,
    samples: Sequence[int] | Tensor | None = None,
    labels: bool = False,
    replays: int | Sequence[int] = 0,
    drop: float = 0.1,
    removal: Removal = "weight",
    executor: ExecutorOption = None,
    workers: int | None = None,
    part: PartOption = None,
) -> Scores:
    """Attribute several independent runs of the same training: mean contributions with their standard errors.

    One run's contributions depend on that run's initialisation and order. The mean over runs is what
    the sample does to trainings like these.

    Args:
        make: `make(seed, folder)` trains the run of a seed into `folder` and returns its recording; called again for
            a finished folder it opens it. With `hg.train(..., out=folder, seed=seed, resume=True)` it does both.
        query: As for `attribute`.
        seeds: How many runs (then 0, 1, ...), or their seeds; at least two.
        out: Runs lie in OUT/seed-0, OUT/seed-1, ...
        curvature, damping, smoothing, samples, labels, replays, drop, removal: As for `attribute`.
        executor: Where they are trained and attributed, as `hg.counterfactual` takes it; the workers must see `out`.
        workers: Processes that train and attribute at the same time; of other executors, jobs that wait or run.
        part: As "3/16": do this slice of the seeds, then those that are missing and that no other process works on.

    Returns:
        Scores whose values, query values and label contributions are means over the runs, with `standard_errors`. The
        evidence says how alike single runs rank the samples, and how many runs the ranking takes to converge. Runs
        and scores that are finished are saved, so an interrupted call resumes.

    Raises:
        QueryError: Fewer than two runs, a seed twice, or options that do not fit together.
        RecordingMismatch: Runs on different data.
        Unsupported: Something that can't be sent to another process, or a worker that does not see `out`.
        Unfinished: `part`, and runs of other slices are missing.

    Cost: a training and an attribution a seed.
    """
    method = Method.of(curvature, damping=damping, smoothing=smoothing, replays=replays, drop=drop, removal=removal)
    numbers = list(range(seeds)) if isinstance(seeds, int) else [int(seed) for seed in seeds]
    if len(numbers) < 2 or len(set(numbers)) < len(numbers):
        raise QueryError(f"An ensemble takes at least two different seeds, got {seeds}.")
    queries, ids = queries_of(query), None if samples is None else torch.as_tensor(samples).tolist()
    execution = execution_of(executor, workers, part)
    members = score_members(
        make, queries, numbers, Path(out).absolute(), method=method, labels=labels, samples=ids, execution=execution
    )
    return _mean(members, numbers, queries)


def score_members(
    make: Make,
    queries: list[Query],
    seeds: Sequence[int],
    out: Path,
    *,
    method: Method,
    labels: bool = False,
    samples: list[int] | None = None,
    execution: Execution = HERE,
) -> list[Scores]:
    """The scores of every seed's run, trained and attributed where they are not there yet.

    Args:
        make, queries, seeds, out, labels, samples: As for `ensemble`.
        method: Curvature, damping, smoothing and replays.
        execution: Where runs are trained and attributed.

    Raises:
        RecordingMismatch: Runs on different data.
        Unfinished: A slice, and runs of other slices are missing.
    """
    work = _Work(make, queries, out, method, labels, samples)
    finished: dict[int, _Member] = {}
    with bar("training and attributing", len(seeds), unit="runs") as progress, Claims(out) as claims:
        names = [f"seed-{seed}" for seed in seeds]
        places = list[int]()

        def waiting() -> Iterator[int]:
            for place in claimed(range(len(seeds)), names, execution.part, claims):
                places.append(place)
                yield seeds[place]

        for number, member in run_jobs(work, waiting(), execution):
            finished[places[number]] = member
            claims.drop(names[places[number]])
            progress.advance()
    if execution.part is not None and len(finished) < len(seeds):
        raise Unfinished(unfinished(execution.part, len(seeds) - len(finished), len(seeds), "runs"))
    members = [finished[place] for place in range(len(seeds))]
    for seed, member in zip(seeds[1:], members[1:], strict=True):
        if member.data != members[0].data:
            raise RecordingMismatch(
                f"The runs of seeds {seeds[0]} and {seed} were trained on different data, so there is no mean over "
                f"them. Give every seed the same training set; let the seed decide initialisation and order."
            )
    return [member.scores for member in members]


@dataclass(frozen=True, kw_only=True)
class _Member:
    """One run's scores, and the manifest's entry on the data it was trained on."""

    scores: Scores
    data: Any


class _Work:
    """Trains and attributes one run; a class, so that it can be sent to workers."""

    def __init__(
        self,
        make: Make,
        queries: list[Query],
        out: Path,
        method: Method,
        labels: bool,
        samples: list[int] | None,
    ) -> None:
        self._make, self._queries, self._out = make, queries, out
        self._method, self._labels, self._samples = method, labels, samples

    @property
    def shared(self) -> Listing:
        """The folder of the runs, which workers must see."""
        return shared_folder(self._out)

    def __call__(self, seed: int) -> _Member:
        with users_default_device():
            run = self._make(seed, self._out / f"seed-{seed}")
        file = Kept(run.path / "scores" / FOLDER, "", self._key(run))
        scores = self._saved(run, file)
        if scores is None:
            scores = attribute(run, self._queries, samples=self._samples, labels=self._labels, **self._method.options)
            file.write(*scores.packed())
        return _Member(scores=replace(scores, queries=None), data=run.manifest.data)

    def _key(self, run: Recording) -> Key:
        """Everything that decides the scores but the queries' data; as earlier versions composed it."""
        names = [name for query in self._queries for name in query.names()]
        method = self._method
        options: dict[str, Any] = {
            "curvature": method.curvature,
            "damping": method.damping,
            "labels": self._labels,
            "replays": method.options.get("replays", 0),
            "drop": method.drop,
        }
        if method.smoothing is not None:
            options["smoothing"] = method.smoothing
        if method.removal != "weight":
            options["removal"] = method.removal
        return [run.digest, len(run.steps), names, options, self._samples]

    def _saved(self, run: Recording, file: Kept) -> Scores | None:
        """Scores of an earlier call, if the queries still have their values: one name may stand for other data."""
        scores = file.read_as(Scores.unpacked)
        if scores is None:
            return None
        point, model = query_point(run, Layout({}), Layout({})), run.trained_model()
        with preserved():
            values = [value for query in self._queries for value in query.values(model, point)]
        now = torch.tensor(values, dtype=torch.float64)
        return scores if torch.allclose(scores.query_values, now, rtol=1e-5, atol=1e-9) else None


def _mean(members: Sequence[Scores], seeds: Sequence[int], queries: Sequence[Query]) -> Scores:
    every = torch.stack([scores.values for scores in members])
    values, errors = mean_and_standard_error(every)
    labelled = [scores.label_contributions for scores in members if scores.label_contributions is not None]
    return replace(
        members[0],
        values=values,
        standard_errors=errors,
        query_values=torch.stack([scores.query_values for scores in members]).mean(0),
        label_contributions=torch.stack(labelled).mean(0) if labelled else None,
        evidence=_evidence([scores.evidence for scores in members], seeds, every),
        queries=tuple(queries),
    )


def _evidence(members: Sequence[Evidence], seeds: Sequence[int], every: Tensor) -> Evidence:
    return replace(
        members[0],
        seeds=len(seeds),
        completed=all(evidence.completed for evidence in members),
        replay_exact=all(evidence.replay_exact for evidence in members),
        replay_drift=max(evidence.replay_drift for evidence in members),
        notes=(*members[0].notes, *_notes(seeds, every)),
    )


def _notes(seeds: Sequence[int], every: Tensor) -> list[Note]:
    count = len(seeds)
    which = ", ".join(map(str, seeds[:8])) + (", ..." if count > 8 else "")
    notes = [Note("ensemble", f"Means over {count} independent runs (seeds {which}), with their standard errors.")]
    single = float(rank_agreement(every).nanmean())
    if single == single:
        needed = runs_needed(single, CONVERGED)
        wait = (
            "more runs than can be estimated"
            if needed is None
            else f"about {needed:,} runs or more"
            if needed > count
            else "no more runs"
        )
        text = (
            f"Two single runs rank the samples with Spearman {single:.2f} between them, means over {count} runs with "
            f"about {agreement_of_means(max(0.0, single), count):.2f}; {CONVERGED} takes {wait}."
        )
        notes.append(Note("ensemble", text))
    return notes
