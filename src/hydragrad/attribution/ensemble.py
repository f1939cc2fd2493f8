"""`ensemble`: contributions with intervals, from independent runs of the same training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hydragrad.attribution.attribute import attribute, query_point
from hydragrad.derivatives import Layout
from hydragrad.errors import QueryError, RecordingMismatch
from hydragrad.execution import run_jobs
from hydragrad.progress import bar
from hydragrad.randomness import preserved
from hydragrad.replay import Recording
from hydragrad.runs.kept import Kept
from hydragrad.scores import Curvature, Evidence, Query, Scores, queries_of
from hydragrad.scores.spread import agreement_of_means, mean_and_standard_error, rank_agreement, runs_needed

FOLDER = "members"
SETTLED = 0.9

Make = Callable[[int, Path], Recording]
"""`make(seed, folder)` trains and records one run in `folder`, or opens the run that is already there."""


def ensemble(
    make: Make,
    query: Query | Sequence[Query],
    *,
    seeds: int | Sequence[int],
    out: str | Path,
    curvature: Curvature = "none",
    damping: float = 0.0,
    samples: Sequence[int] | Tensor | None = None,
    labels: bool = False,
    replays: int = 0,
    drop: float = 0.1,
    workers: int = 1,
) -> Scores:
    """Attribute several independent runs of the same training: mean contributions with their standard errors.

    One run's contributions hold what that run's initialisation and order made of a sample. The mean over runs is what
    the sample does to trainings like these.

    Args:
        make: `make(seed, folder)` trains the run of a seed into `folder` and returns its recording; called again for
            a finished folder it opens it. With `hg.train(..., out=folder, seed=seed, resume=True)` it does both.
        query: As `attribute` takes it.
        seeds: How many runs (then 0, 1, ...), or their seeds; at least two.
        out: Runs lie in OUT/seed-0, OUT/seed-1, ...
        curvature, damping, samples, labels, replays, drop: As `attribute` takes them.
        workers: Processes that train and attribute at the same time.

    Returns:
        Scores whose values, query values and label contributions are means over the runs, with `standard_errors`. The
        evidence says how alike single runs rank the samples, and how many runs the ranking takes to settle. Runs and
        scores that are finished are kept, so an interrupted call goes on.

    Raises:
        QueryError: Fewer than two runs, or a seed twice.
        RecordingMismatch: Runs on different data.
        Unsupported: `workers`, and something that can't be sent to another process.

    Cost: a training and an attribution a seed.
    """
    chosen = list(range(seeds)) if isinstance(seeds, int) else [int(seed) for seed in seeds]
    if len(chosen) < 2 or len(set(chosen)) < len(chosen):
        raise QueryError(f"An ensemble takes at least two different seeds; {seeds} came.")
    options = {"curvature": curvature, "damping": damping, "labels": labels, "replays": replays, "drop": drop}
    asked, ids = queries_of(query), None if samples is None else torch.as_tensor(samples).tolist()
    return _together(each_run(make, asked, chosen, Path(out), options, ids, workers=workers), chosen, asked)


def each_run(
    make: Make,
    asked: list[Query],
    seeds: Sequence[int],
    out: Path,
    options: dict[str, Any],
    samples: list[int] | None = None,
    *,
    workers: int = 1,
) -> list[Scores]:
    """The scores of every seed's run, trained and attributed where they are not there yet.

    Args:
        make, asked, seeds, out, samples, workers: As `ensemble` takes them.
        options: Of `attribute`.
    """
    work = _Member(make, asked, out, options, samples)
    found: dict[int, _Found] = {}
    with bar("training and attributing", len(seeds), unit="runs") as progress:
        for place, member in run_jobs(work, seeds, workers=workers):
            found[place] = member
            progress.advance()
    members = [found[place] for place in range(len(seeds))]
    for seed, member in zip(seeds[1:], members[1:], strict=True):
        if member.data != members[0].data:
            raise RecordingMismatch(
                f"The runs of seeds {seeds[0]} and {seed} were trained on different data, so there is no mean over "
                f"them. Give every seed the same training set; let the seed decide initialisation and order."
            )
    return [member.scores for member in members]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """One run's scores, and what says which data it was trained on."""

    scores: Scores
    data: Any


class _Member:
    """Trains and attributes one run; a class, so that it can be sent to workers."""

    def __init__(
        self, make: Make, asked: list[Query], out: Path, options: dict[str, Any], samples: list[int] | None
    ) -> None:
        self._make, self._asked, self._out, self._options, self._samples = make, asked, out, options, samples

    def __call__(self, seed: int) -> _Found:
        run = self._make(seed, self._out / f"seed-{seed}")
        names = [name for query in self._asked for name in query.names()]
        key = [run.digest, len(run.steps), names, self._options, self._samples]
        kept = Kept(run.path / "scores" / FOLDER, "", key)
        scores = self._saved(run, kept)
        if scores is None:
            scores = attribute(run, self._asked, samples=self._samples, **self._options)
            kept.write(*scores.packed())
        return _Found(scores=replace(scores, queries=None), data=run.manifest.data)

    def _saved(self, run: Recording, kept: Kept) -> Scores | None:
        """Scores of an earlier call, if they are of these queries: queries of one name may have different data."""
        scores = kept.read_as(Scores.unpacked)
        if scores is None:
            return None
        point, model = query_point(run, Layout({}), Layout({})), run.trained_model()
        with preserved():
            values = [value for query in self._asked for value in query.values(model, point)]
        now = torch.tensor(values, dtype=torch.float64)
        return scores if torch.allclose(scores.query_values, now, rtol=1e-5, atol=1e-9) else None


def _together(members: Sequence[Scores], seeds: Sequence[int], asked: Sequence[Query]) -> Scores:
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
        queries=tuple(asked),
    )


def _evidence(each: Sequence[Evidence], seeds: Sequence[int], every: Tensor) -> Evidence:
    return replace(
        each[0],
        seeds=len(seeds),
        completed=all(evidence.completed for evidence in each),
        replay_exact=all(evidence.replay_exact for evidence in each),
        replay_drift=max(evidence.replay_drift for evidence in each),
        notes=(*each[0].notes, *_notes(seeds, every)),
    )


def _notes(seeds: Sequence[int], every: Tensor) -> list[str]:
    count = len(seeds)
    which = ", ".join(map(str, seeds[:8])) + (", ..." if count > 8 else "")
    notes = [f"Means over {count} independent runs (seeds {which}), with their standard errors."]
    single = float(rank_agreement(every).nanmean())
    if single == single:
        needed = runs_needed(single, SETTLED)
        wait = (
            "more runs than can be said"
            if needed is None
            else f"about {needed:,} runs or more"
            if needed > count
            else "no more runs"
        )
        notes.append(
            f"Two single runs rank the samples with Spearman {single:.2f} between them, means over {count} runs with "
            f"about {agreement_of_means(max(0.0, single), count):.2f}; {SETTLED} takes {wait}."
        )
    return notes
