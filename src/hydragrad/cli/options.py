"""Options that several commands share."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

import typer

from hydragrad.errors import UnknownName

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
        help="Mean over so many independent runs, with standard errors: this one, and others with the seeds that "
        "follow, trained in RUN/seeds.",
    ),
]
CurvatureOption = Annotated[
    Literal["none", "hessian", "ggn"],
    typer.Option(
        help="none: HYDRA, quick, a ranking; hessian: exact, for smooth runs; ggn: Gauss-Newton, steadier on kinks."
    ),
]


def named_among(text: str, known: Collection[str], option: str) -> list[str]:
    """Names with commas between.

    Raises:
        UnknownName: One that is not known.
    """
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UnknownName(f"{option} takes some of {', '.join(known)}; {', '.join(unknown)} came.")
    return names
