"""Networks trained with AdamW: does a derivative predict removals once the root of the second moment is smoothed?

The claim under test: *smoothing that root in the derivative alone makes exact attribution of AdamW-trained networks
predict removals nearly perfectly*, without a change of anybody's training. The protocols, fixed before any of their
numbers were seen:

**A**, one image left out. MLP 784-16-16-10, ReLU and GELU, torch's initialisation; the first 6,000 MNIST images, pixels
/ 255; one epoch, batch 64, 94 steps; AdamW, betas .9 and .95, eps 1e-8, no decay, constant rate 1e-3, 1e-4 or 1e-5.
Truth: each of 200 images (the same for all seeds) left out of its batch, mean over the rest, same order. Queries: the
mean loss of the first 500 test images, and the losses of the first 100 of them. Predictions have their batch's mean
contribution subtracted; two rows say what they were without.

**T**, networks of other tables. MNIST, 3,000 images; the MLP 1024-64-10 with ReLU and with GELU, 3 epochs; LeNet-5, and
LeNet-5 with GELU and average pooling, 4 epochs; batch 64, AdamW with torch's defaults, rate 1e-3. Truth: 30 random
groups of 10 % and 30 of 2 % left out with weight 0. Queries: the mean loss of the first 2,000 test images, and the
losses of the first ten.

**D**, a small GPT. 2 layers, 4 heads, width 64, blocks of 64 characters (0.11 million parameters); the first 4,096
blocks of Shakespeare, batch 32, 400 steps, no dropout; AdamW, betas .9 and .99, decay .1 on matrices only, clipping at
1, warm-up over 10 % and cosine down to a tenth, rate 1e-3. Truth of *this run*: random groups of 10 % and of 1 % left
out with weight 0. Truth of *the data*: networks trained on random halves, 200 steps, with initialisation and order of
their own. Queries: the mean loss of the first 50 test blocks, and the losses of these blocks. 60 groups, 60 halves and
50 blocks are the goal; rows say how many there were.

Estimators: exact with smoothing 0, .001, .01, .1 and 1, as a share of the mean second moment of all coordinates, and of
each tensor's own mean; ggn and none, with .01 and with 0; exact averaged over four replays without a tenth; influence
functions (Gauss-Newton, damping .1) at the end and over five checkpoints; TracIn over ten; TRAK of the library dattri
at the trained weights, 2,048 columns. Nothing is tuned but the smoothing, on seed 100 of A and T, which no table has.
Reported seeds: 0, 1 and 2 of A; 0 of T and D.

Ceilings: the first third of the groups retrained from initial weights changed by one rounding; the changes of two
halves of a group, summed, against the whole (10 %); the same groups left out of a run with the next seed; for *the
data*, the same halves with other seeds.

Figures: LDS (Spearman over the groups) of the mean loss, with a 90 % bootstrap interval over groups, and of the single
queries (their mean); slope of actual on predicted changes of the mean loss, and the median one of the single queries.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from hydragrad.cli.console import columns, number, write_json
from hydragrad.cli.options import DataDir, Json, Quiet, named_among, require_one_of
from hydragrad.errors import UnknownName
from hydragrad.figures import agreement
from hydragrad.progress import quiet
from hydragrad.trust.lds import lds, lds_interval
from studies.adam_estimators import ESTIMATORS, OF_KIND, contributions
from studies.adam_runs import DATA, HALVED, ONE, SUBJECTS, AdamRun, Subject
from studies.rows import append_rows, saved_rows

Array = NDArray[np.float64]

ROWS_FILE = "adam.jsonl"
CEILINGS = "ceilings"
KINDS = (*OF_KIND, CEILINGS)
WITHOUT_PEERS = ",".join(kind for kind in KINDS if kind != "trak")
ROUNDED, HALVES, ANOTHER_SEED = "re-rounded retraining", "two halves, summed", "truth of another seed"
NOT_SUBTRACTED = ", mean not subtracted"


@dataclass(frozen=True, kw_only=True)
class AdamRow:
    """One estimator on one run and one kind of removal.

    Attributes:
        protocol, subject, seed: The run.
        test_loss: Mean loss of its tests.
        removed: What was left out.
        estimator: What predicts.
        groups, singles: How many removals, and how many single queries.
        mean, low, high: LDS of the mean loss, with its 90 % bootstrap interval over removals.
        single: Mean LDS of the single queries.
        slope, single_slope: Of actual on predicted changes of the mean loss; median of the single queries.
        trainings: Processor time in trainings of the run.
    """

    protocol: str
    subject: str
    seed: int
    test_loss: float
    removed: str
    estimator: str
    groups: int
    singles: int
    mean: float
    low: float
    high: float
    single: float
    slope: float | None
    single_slope: float | None
    trainings: float

    def key(self) -> tuple[object, ...]:
        """What identifies a measurement."""
        return self.protocol, self.subject, self.seed, self.removed, self.estimator, self.groups, self.singles


def reproduce_adam(
    out: Path,
    *,
    protocol: str,
    subjects: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    kinds: Sequence[str] = KINDS,
    removed: Sequence[str] | None = None,
    removals: int = 30,
    chunks: int = 1,
    data_dir: Path | None = None,
) -> list[AdamRow]:
    """Measure what is missing; runs, retrainings and contributions in `out` are reused.

    Args:
        out: Folder for all of that and the rows.
        protocol: A, T or D.
        subjects: Names of some of the protocol's subjects; all if None.
        seeds: One run each.
        kinds: Some of `KINDS`, or names of estimators.
        removed: Some of what the subjects leave out; all if None.
        removals: Groups of each size, or halves.
        chunks: Of the single queries; a subject may have fewer.
        data_dir: Folder of the data.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows: list[AdamRow] = []
    for subject in SUBJECTS[protocol]:
        if subjects is not None and subject.name not in subjects:
            continue
        for seed in seeds:
            adam = AdamRun(out, subject, seed, removals=removals, data_dir=data_dir)
            some = [name for name in subject.removed if removed is None or name in removed]
            for row in _measured(protocol, adam, kinds, some, min(chunks, len(subject.chunks)), out / ROWS_FILE):
                rows.append(row)
    return rows


def _measured(
    protocol: str, adam: AdamRun, kinds: Sequence[str], removed: Sequence[str], chunks: int, file: Path
) -> Iterator[AdamRow]:
    """The rows of a run; what was measured now is saved as soon as it is known."""
    singles = sum(len(chunk) for chunk in adam.subject.chunks[:chunks])
    saved = {row.key(): row for row in saved_rows(AdamRow, file)}
    for name in _names(kinds):
        for what in removed:
            for suffix in ("", NOT_SUBTRACTED) if what == ONE else ("",):
                key = (protocol, adam.subject.name, adam.seed, what, name + suffix, len(adam.groups(what)), singles)
                if key not in saved:
                    values, seconds = contributions(adam, name, chunks)
                    predicted = _predicted(adam, values, what, subtracted=not suffix)
                    actual = adam.actual(what)[: len(predicted)]
                    saved[key] = _row(adam, key, predicted, actual, seconds / adam.training)
                    append_rows(file, [saved[key]])
                yield saved[key]
    for what in removed if CEILINGS in kinds else ():
        for name in _ceilings_of(adam.subject, what):
            key = (protocol, adam.subject.name, adam.seed, what, name, adam.ceilings(what), singles)
            if key not in saved:
                repeated, cost = _ceiling(adam, name, what)
                actual = adam.actual(what)[: 1 + singles, : adam.ceilings(what)]
                saved[key] = _row(adam, key, repeated[: 1 + singles], actual, cost)
                append_rows(file, [saved[key]])
            yield saved[key]


def _names(kinds: Sequence[str]) -> list[str]:
    """Names of the estimators of some kinds."""
    return [name for kind in kinds if kind != CEILINGS for name in OF_KIND.get(kind, [kind])]


def _predicted(adam: AdamRun, values: Array, removed: str, *, subtracted: bool) -> Array:
    """Predicted changes, (queries, removals), from contributions (queries, samples)."""
    if removed != ONE or not subtracted:
        return np.stack([values[:, group].sum(1) for group in adam.groups(removed)], axis=1)
    columns = []
    for (i,) in adam.groups(removed):
        batch = adam.batch_of[i]
        columns.append(len(batch) / (len(batch) - 1) * (values[:, i] - values[:, batch].mean(1)))
    return np.stack(columns, axis=1)


def _ceilings_of(subject: Subject, removed: str) -> list[str]:
    if removed == DATA:
        return [ANOTHER_SEED]
    return [ROUNDED, *([HALVES] if removed == HALVED else []), ANOTHER_SEED]


def _ceiling(adam: AdamRun, name: str, removed: str) -> tuple[Array, float]:
    """Another measurement of the first removals, and its trainings."""
    count = adam.ceilings(removed)
    if name == ROUNDED:
        return adam.actual(removed, count, noise=float(np.finfo(np.float32).eps)), count
    if name == HALVES:
        return adam.halves(), 2 * count
    if removed == DATA:
        return adam.of_the_data(5000, count), count / 2
    return adam.of_another_seed(removed), count


def _row(adam: AdamRun, key: tuple[Any, ...], predicted: Array, actual: Array, trainings: float) -> AdamRow:
    protocol, subject, seed, removed, estimator, groups, singles = key
    low, high = lds_interval(predicted[:1], actual[:1])
    slopes = [agreement(p, a).slope for p, a in zip(predicted, actual, strict=True)]
    single_slope = float(np.nanmedian(slopes[1:]))
    return AdamRow(
        protocol=protocol,
        subject=subject,
        seed=seed,
        test_loss=adam.test_loss,
        removed=removed,
        estimator=estimator,
        groups=groups,
        singles=singles,
        mean=lds(predicted[:1], actual[:1]),
        low=low,
        high=high,
        single=lds(predicted[1:], actual[1:]),
        slope=None if np.isnan(slopes[0]) else slopes[0],
        single_slope=None if np.isnan(single_slope) else single_slope,
        trainings=trainings,
    )


def adam(
    protocol: Annotated[str, typer.Option(help="A: one image left out; T: networks of other tables; D: a small GPT.")],
    out: Annotated[Path, typer.Option(help="Folder for runs and rows.")] = Path("runs/adam"),
    subjects: Annotated[str | None, typer.Option(help="Which networks of the protocol; all by default.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of the runs, with commas between.")] = "0",
    kinds: Annotated[
        str,
        typer.Option("--estimators", help=f"Kinds of estimator: {', '.join(KINDS)}; or their names in rows."),
    ] = WITHOUT_PEERS,
    removed: Annotated[str | None, typer.Option(help="What is left out, as rows call it; all by default.")] = None,
    removals: Annotated[int, typer.Option(min=9, help="Groups of each size, or random halves.")] = 30,
    chunks: Annotated[
        int, typer.Option(min=1, help="Groups of single queries: 7 are all 50 blocks of D, the first has 4.")
    ] = 1,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Networks trained with AdamW: what predicts removals, with and without smoothing.

    A takes about two minutes of processor time a run, D with its defaults about an hour. If interrupted, the same
    command resumes; with more removals or chunks it goes on from what is there.

    Example: python -m studies adam --protocol A --subjects "mlp-gelu 1e-3" --estimators smoothing,none
    """
    require_one_of(protocol, SUBJECTS, "--protocol")
    own = {subject.name: subject for subject in SUBJECTS[protocol]}
    names = list(own) if subjects is None else named_among(subjects, own, "--subjects")
    kinds_of_removal = dict.fromkeys(what for name in names for what in own[name].removed)
    with quiet(silent):
        rows = reproduce_adam(
            out,
            protocol=protocol,
            subjects=names,
            seeds=_seeds(seeds),
            kinds=named_among(kinds, [*KINDS, *ESTIMATORS], "--estimators"),
            removed=None if removed is None else named_among(removed, kinds_of_removal, "--removed"),
            removals=removals,
            chunks=chunks,
            data_dir=data_dir,
        )
    columns(
        f"protocol {protocol}",
        ("trained", "seed", "left out", "estimator", "LDS mean loss", "single", "slope", "single slope", "trainings"),
        [
            (
                row.subject,
                str(row.seed),
                f"{row.groups} x {row.removed}",
                row.estimator,
                f"{row.mean:.2f} [{row.low:.2f}, {row.high:.2f}]",
                f"{row.single:.2f}",
                number(row.slope),
                number(row.single_slope),
                f"{row.trainings:.1f}",
            )
            for row in rows
        ],
        left=["trained", "estimator"],
    )
    write_json(json, {" ".join(map(str, row.key())): row.mean for row in rows})


def _seeds(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() for word in words):
        raise UnknownName(f"--seeds takes whole numbers, with commas between; got {text}.")
    return [int(word) for word in words]
