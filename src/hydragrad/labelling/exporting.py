"""`export_suspects`: suspects as a file or folder that a tool for labels opens."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import pandas as pd

from hydragrad.disk import make_folder, writing
from hydragrad.errors import NotWritable, UnknownName
from hydragrad.labelling.csv_table import write_table
from hydragrad.labelling.exported import Exported, exported
from hydragrad.labelling.fiftyone import write_dataset
from hydragrad.labelling.label_studio import write_tasks
from hydragrad.replay import Recording
from hydragrad.reports.rendering import Render
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere import Checkpoints

Format = Literal["csv", "label-studio", "fiftyone"]
"""A table; a folder with tasks.json and config.xml; a folder that is a FiftyOneDataset."""

WRITERS: dict[Format, Callable[[Exported, Path], None]] = {
    "csv": write_table,
    "label-studio": write_tasks,
    "fiftyone": write_dataset,
}

MOST = 1_000
"""So many suspects are written unless another number is given."""


@in_clean_surroundings
def export_suspects(
    run: Recording | Checkpoints,
    suspects: pd.DataFrame,
    path: str | Path,
    *,
    format: Format = "csv",
    classes: Sequence[str] | None = None,
    render: Render | None = None,
    most: int = MOST,
) -> Path:
    """Write the first suspects for the tool in which labels are decided on; `hg.import_labels` reads the decisions.

    What is known of the truth (`true_label`, `flipped`) is not written.

    Args:
        run: The recorded run, or checkpoints of a model trained elsewhere.
        suspects: What hg.suspects returned, the most suspect first; more of its columns are written as numbers.
        path: What is written. "csv": a file with an empty column `label`. "label-studio": a folder with tasks.json
            (pictures inside, the suggested label as prediction) and config.xml, the labelling config. "fiftyone": a
            folder that `fiftyone.Dataset.from_dir` reads as a FiftyOneDataset, with PNG pictures.
        format: The tool.
        classes: Name of each label; labels are called by their numbers if None.
        render: `render(item)`, as hg.report takes it. Without it images, texts and rows of numbers are shown for what
            they are; "csv" shows none.
        most: How many suspects are written, at most.

    Returns:
        The path.

    Raises:
        UnknownName: An unknown format.
        NotWritable: Something is there already: it may hold decisions.
        PresentationError: Suspects of another run, labels without names, or two of one name; samples that are no
            pictures, for "fiftyone".
        LossError: No tensor of the batches is the label, or several are.
    """
    if format not in get_args(Format):
        raise UnknownName(f"format must be one of {', '.join(get_args(Format))}; got {format!r}.")
    place = Path(path)
    if place.exists():
        raise NotWritable(f"{place} is there already, and may hold decisions. Choose another path, or delete it.")
    content = exported(run, suspects, classes=classes, render=render, most=most)
    make_folder(place.parent)
    with _whole(place) as unfinished:
        WRITERS[format](content, unfinished)
    return place


@contextmanager
def _whole(place: Path) -> Iterator[Path]:
    """Another path, for a file or folder that appears at `place` only once it is complete."""
    unfinished = place.with_name(place.name + ".unfinished")
    _remove(unfinished)
    try:
        yield unfinished
        with writing(place):
            unfinished.rename(place)
    finally:
        _remove(unfinished)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
