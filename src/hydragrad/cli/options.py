"""Options that several commands share."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hydragrad.cli.console import say
from hydragrad.errors import QueryError, Unfinished, UnknownName
from hydragrad.execution import Execution, Keywords, RayExecutor, execution_of

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, as written by `hydragrad train`.")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", envvar="HYDRAGRAD_DATA", help="Folder with the data sets' files.")
]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only forecast time, memory and disk.")]
Seeds = Annotated[
    int,
    typer.Option(
        min=1,
        help="Average over this many independent runs, with standard errors: this one, and others with the next "
        "seeds, trained in RUN/seeds.",
    ),
]
CurvatureOption = Annotated[
    Literal["none", "hessian", "ggn"],
    typer.Option(
        help="none: HYDRA, fast, a ranking; hessian: exact, for smooth runs; ggn: Gauss-Newton, more stable on kinks."
    ),
]
CurvatureByData = Annotated[
    Literal["none", "hessian", "ggn"] | None,
    typer.Option(
        help="none: HYDRA, fast, a ranking; hessian: exact, for smooth runs; ggn: Gauss-Newton, more stable on kinks "
        "(default: none; of texts trained by AdamW hessian)."
    ),
]
RemovalOption = Annotated[
    Literal["weight", "renormalised"],
    typer.Option(
        help="What leaving a sample out means: its loss gets weight 0, or the mean of its batch is taken over the rest."
    ),
]
SmoothingOption = Annotated[
    float | None,
    typer.Option(
        "--smoothing",
        min=0,
        help="Of Adam and its like: share of the mean second moment added under its root in the derivative; default "
        "0.01, 0 is the exact derivative.",
    ),
]
ExecutorName = Annotated[
    Literal["here", "processes", "ray"] | None,
    typer.Option(
        "--executor",
        help="Where independent parts of the work run: processes of this machine, or a Ray cluster (--ray-address, "
        "RAY_ADDRESS, or one that is started; default: here, or processes where --workers is above 1).",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray-address", metavar="ADDRESS", help="Of a running Ray cluster; implies --executor ray."),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes that work at the same time; with --executor ray, jobs that wait or run."),
]
Part = Annotated[
    str | None,
    typer.Option(
        "--part",
        metavar="K/N",
        help="Do the K-th of N slices of the work, as in 3/16, then what is missing and no other process works on; "
        "the results meet in RUN, and the call that ends last puts them together.",
    ),
]


def keywords_of(
    executor: Literal["here", "processes", "ray"] | None,
    ray_address: str | None,
    workers: int | None,
    part: str | None = None,
) -> Keywords:
    """The keywords of a function that the options stand for; refuses wrong ones before any work.

    Raises:
        QueryError: An address for another executor, or no slice.
    """
    return execution_from(executor, ray_address, workers, part).keywords


def execution_from(
    executor: Literal["here", "processes", "ray"] | None,
    ray_address: str | None,
    workers: int | None,
    part: str | None = None,
) -> Execution:
    """The same as a value.

    Raises:
        QueryError: As for `keywords_of`.
    """
    if ray_address is not None and executor not in (None, "ray"):
        raise QueryError(f"--ray-address is for --executor ray, got --executor {executor}.")
    chosen = executor if ray_address is None else RayExecutor(address=ray_address)
    return execution_of(chosen, workers, part)


def jobs_at_a_time(where: Keywords) -> int:
    """Jobs that run at the same time, for a forecast; those of other slices are not counted."""
    return where["workers"] or 1


def end_slice(missing: Sequence[Unfinished]) -> None:
    """Say what is missing of a slice's results, if anything, and end the command.

    Raises:
        typer.Exit: With code 0.
    """
    for one in missing:
        say(str(one))
    if missing:
        raise typer.Exit


@contextmanager
def slice_done() -> Iterator[None]:
    """Say that a slice is done and others are not, and end the command: nothing is wrong.

    Raises:
        typer.Exit: With code 0.
    """
    try:
        yield
    except Unfinished as done:
        end_slice([done])


TokenizerOption = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        metavar="MODULE:NAME",
        help="With --from: what decodes your tokens, an object with decode(tokens), or a function that returns one; "
        "sequences are then shown as texts. The run remembers that of hydragrad train.",
    ),
]

TrainSize = Annotated[int | None, typer.Option(min=1, help="Training samples (default: all).")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Samples a batch (default: 64; of texts 32).")]
Accumulate = Annotated[
    int, typer.Option(min=1, help="Batches a step: its gradient is that of the mean over all their samples.")
]
ClipNorm = Annotated[
    float | None, typer.Option(min=0, help="Clip every step's gradient to this norm (default: not; of texts 1).")
]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Forward passes under autocast to bfloat16.")]
DropLast = Annotated[bool, typer.Option("--drop-last", help="Leave out an epoch's last batch where it is smaller.")]

BlockSize = Annotated[int | None, typer.Option(min=1, help="Characters of a block of shakespeare (default: 64).")]
Layers = Annotated[int | None, typer.Option(min=1, help="Layers of a gpt (default: 2).")]
Heads = Annotated[
    int | None, typer.Option(min=1, help="Heads of a gpt's attention; they divide its width (default: 4).")
]
Width = Annotated[int | None, typer.Option(min=1, help="Channels of a gpt's tokens (default: 64).")]
Dropout = Annotated[float | None, typer.Option(min=0, help="Of a gpt: probability, below 1 (default: 0).")]
Untied = Annotated[
    bool, typer.Option("--untied", help="A gpt's logits have weights of their own, not those of its embeddings.")
]


def sizes_of(**options: float | bool | None) -> dict[str, Any] | None:
    """Return the options of a model that were given on the command line; None where none was."""
    given = {name: value for name, value in options.items() if value is not None and name != "untied"}
    return (given | ({"tied": False} if options.get("untied") else {})) or None


def named_among(text: str, known: Collection[str], option: str) -> list[str]:
    """Return the names in a comma-separated list.

    Args:
        text: The list.
        known: The valid names.
        option: The option that took the list, for the message.

    Raises:
        UnknownName: One that is not known.
    """
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UnknownName(f"{option} takes some of {', '.join(known)}, with commas between; got {', '.join(unknown)}.")
    return names


def require_one_of(text: str, known: Collection[str], option: str) -> None:
    """Refuse a name that is not known.

    Raises:
        UnknownName: It is not.
    """
    if text not in known:
        raise UnknownName(f"{option} takes one of {', '.join(known)}; got {text}.")
