"""Figure 1: how the time of a training step grows with the number of tracked samples.

The paper advances the rows of all tracked samples at every step, so that its time is linear in their number and in the
number of parameters. The Tracker pays for the tracked samples in the step's own batch. Both are timed here, on the
paper's three models, in one run: processor time, medians over a few steps, one thread. The data set is the tracked set;
its images are random, since what a step costs does not depend on what they show.

Source: Chen et al. 2021, Figure 1.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hydragrad.cli.console import columns, say, write_json
from hydragrad.cli.options import Json, Quiet, named_among
from hydragrad.models import build
from hydragrad.progress import bar, quiet
from hydragrad.randomness import preserved
from hydragrad.replay.machine import threads
from hydragrad.runs.lines import AppendOnlyLines, read_lines
from hydragrad.tracking import Tracker
from studies.growth_figure import growth
from studies.number_lists import whole_numbers

COUNTS = (400, 2_000, 10_000)
ROWS_FILE = "figure1.jsonl"
WARM_UP = 3
"""Steps not counted. A Tracker alone replays steps 0, 1, 2, 4, 8, ..., which a median over the others passes over."""

Kind = Literal["plain", "tracker", "eager"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """How one model is measured.

    Attributes:
        model: Its name.
        channels: Of the images.
        batch_size: Samples a step; all of them are tracked.
        projection: Columns of a projected row, or None for whole rows.
        steps: Timed steps.
    """

    model: str
    channels: int
    batch_size: int
    projection: int | None
    steps: int


# With BatchNorm a step takes one backward pass through the whole batch a tracked sample, hence the smaller batches.
CASES = (
    Case(model="lenet5", channels=1, batch_size=64, projection=None, steps=12),
    Case(model="densenet40", channels=3, batch_size=16, projection=2048, steps=3),
    Case(model="mobilenetv2", channels=3, batch_size=16, projection=2048, steps=3),
)


MODELS = ("lenet5", "densenet40", "mobilenetv2")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One measurement; `per_sample_and_parameter` is seconds over tracked samples and parameters, None for plain."""

    model: str
    parameters: int
    kind: Kind
    tracked: int
    batch_size: int
    columns: int
    seconds: float
    per_sample_and_parameter: float | None


@dataclass(frozen=True, kw_only=True)
class Figure1:
    """What was measured, and what was left out for lack of memory (model and number tracked)."""

    timings: tuple[Timing, ...]
    left_out: tuple[tuple[str, int], ...]
    picture: Path


def reproduce_figure1(
    out: Path,
    *,
    models: Sequence[str] = MODELS,
    counts: Sequence[int] = COUNTS,
    memory: int = 8 << 30,
) -> Figure1:
    """Time plain, tracked and eager steps; measurements in `out` are reused.

    Args:
        out: Folder for the measurements and the picture.
        models: Which of the paper's models.
        counts: Numbers of tracked samples.
        memory: Bytes that the eager oracle's rows and velocities may take; larger ones are left out.
    """
    out.mkdir(parents=True, exist_ok=True)
    done = [Timing(**row) for row in read_lines(out / ROWS_FILE, "timings")] if (out / ROWS_FILE).exists() else []
    left_out: list[tuple[str, int]] = []
    jobs: list[tuple[Case, Kind, int]] = []
    for case in CASES:
        if case.model not in models:
            continue
        width = _parameters(case)
        jobs.append((case, "plain", 0))
        jobs += [(case, "tracker", count) for count in counts]
        for count in counts:
            if 8 * count * width <= memory:
                jobs.append((case, "eager", count))
            else:
                left_out.append((case.model, count))
    known = {(row.model, row.kind, row.tracked) for row in done}
    waiting = [job for job in jobs if (job[0].model, job[1], job[2]) not in known]
    log = AppendOnlyLines(out / ROWS_FILE, keep=len(done))
    try:
        with preserved(), threads(1), bar("timing", len(jobs), len(jobs) - len(waiting), unit="cases") as progress:
            for case, kind, count in waiting:
                progress.note(f"{case.model}, {kind}" + (f", {count:,} tracked" if count else ""))
                done.append(_timing(case, kind, count))
                log.append(asdict(done[-1]))
                log.sync()
                progress.advance()
    finally:
        log.close()
    wanted = {(job[0].model, job[1], job[2]) for job in jobs}
    timings = tuple(row for row in done if (row.model, row.kind, row.tracked) in wanted)
    picture = out / "figure1.png"
    growth([asdict(timing) for timing in timings]).savefig(picture, dpi=160)
    return Figure1(timings=timings, left_out=tuple(left_out), picture=picture)


def _timing(case: Case, kind: Kind, count: int) -> Timing:
    loop = _Loop(case, max(count, 2 * case.batch_size))
    seconds = {"plain": loop.plain, "tracker": loop.tracked, "eager": loop.eager}[kind]()
    parameters = sum(parameter.numel() for parameter in loop.model.parameters())
    columns = {"plain": 0, "tracker": min(case.projection or parameters, parameters), "eager": parameters}[kind]
    return Timing(
        model=case.model,
        parameters=parameters,
        kind=kind,
        tracked=count,
        batch_size=case.batch_size,
        columns=columns,
        seconds=seconds,
        per_sample_and_parameter=seconds / (count * parameters) if count else None,
    )


class _Loop:
    """A training loop whose steps are timed."""

    def __init__(self, case: Case, length: int) -> None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(length, case.channels, 32, 32, generator=generator)
        labels = torch.randint(10, (length,), generator=generator)
        torch.manual_seed(0)
        self.case, self.images, self.labels = case, images, labels
        self.model = build(case.model, channels=case.channels, classes=10)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=2e-5)

    def plain(self) -> float:
        return self._timed(self._step)

    def tracked(self) -> float:
        data = TensorDataset(self.images, self.labels)
        with Tracker(self.model, self.optimizer, _loss, data, projection=self.case.projection) as tracker:

            def step(indices: Tensor) -> None:
                with tracker.step(indices, [self.images[indices], self.labels[indices]]):
                    self._step(indices)

            return self._timed(step)

    def eager(self) -> float:
        """As the algorithm is written: all rows and velocities move at every step."""
        parameters = list(self.model.parameters())
        width, size = sum(parameter.numel() for parameter in parameters), self.case.batch_size
        rows, velocities = torch.zeros(len(self.images), width), torch.zeros(len(self.images), width)

        def step(indices: Tensor) -> None:
            losses = _loss(self.model, [self.images[indices], self.labels[indices]])
            gradients = torch.autograd.grad(losses, parameters, torch.eye(size), is_grads_batched=True)
            self._step(indices)
            velocities.mul_(0.9).add_(rows, alpha=2e-5)
            velocities[indices] += torch.cat([gradient.flatten(1) for gradient in gradients], 1) / size
            rows.sub_(velocities, alpha=0.01)

        return self._timed(step)

    def _step(self, indices: Tensor) -> None:
        self.optimizer.zero_grad()
        _loss(self.model, [self.images[indices], self.labels[indices]]).mean().backward()
        self.optimizer.step()

    def _timed(self, step: Callable[[Tensor], None]) -> float:
        generator, seconds = torch.Generator().manual_seed(1), []
        for _ in range(self.case.steps + WARM_UP):
            indices = torch.randperm(len(self.images), generator=generator)[: self.case.batch_size]
            begin = time.process_time()
            step(indices)
            seconds.append(time.process_time() - begin)
        return statistics.median(seconds[WARM_UP:])


def _loss(model: nn.Module, batch: Any) -> Tensor:
    losses: Tensor = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
    return losses


def _parameters(case: Case) -> int:
    with preserved():
        model = build(case.model, channels=case.channels, classes=10)
    return sum(math.prod(parameter.shape) for parameter in model.parameters())


def figure1(
    out: Annotated[Path, typer.Option(help="Folder for measurements and picture.")] = Path("runs/figure1"),
    models: Annotated[str, typer.Option(help="Which models, with commas between.")] = ",".join(MODELS),
    counts: Annotated[str, typer.Option(help="Numbers of tracked samples.")] = "400,2000,10000",
    memory: Annotated[float, typer.Option(help="GiB that the eager oracle's rows may take.")] = 8.0,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Time of a training step against the number of tracked samples.

    Times the Tracker, and all rows at every step. Takes some minutes on one core; if interrupted, the same command
    resumes after the last measurement.

    Example: python -m studies figure1 --models lenet5 --counts 400,2000
    """
    names, numbers = named_among(models, MODELS, "--models"), whole_numbers(counts, "--counts")
    with quiet(silent):
        measured = reproduce_figure1(out, models=names, counts=numbers, memory=round(memory * 2**30))
    base = {row.model: row.seconds for row in measured.timings if row.kind == "plain"}
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
        for row in measured.timings
    ]
    headings = ("model", "batch", "tracked", "how", "columns", "step", "x plain", "sample & parameter")
    columns("a training step, every sample of its batch tracked", headings, rows, left=["model", "how"])
    for model, count in measured.left_out:
        say(f"left out: {model}, {count:,} tracked, eager: its rows and velocities take more than {memory:g} GiB")
    say(f"picture: {measured.picture}")
    figures = {
        f"{row.model}_{row.kind}{f'_{row.tracked}' if row.tracked else ''}_seconds": row.seconds
        for row in measured.timings
    }
    write_json(json, figures)
