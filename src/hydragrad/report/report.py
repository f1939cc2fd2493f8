"""`report`: scores as one HTML page."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hydragrad.errors import PresentationError, QueryError
from hydragrad.recording import Recording
from hydragrad.recording.files import replace_file
from hydragrad.report.content import read_content
from hydragrad.report.page import page
from hydragrad.report.samples import Pictures
from hydragrad.scores import Scores


def report(
    run: Recording,
    scores: Scores,
    path: str | Path,
    *,
    query: str | int | None = None,
    suspects: pd.DataFrame | None = None,
    picture: Callable[[int], NDArray[np.uint8]] | None = None,
    classes: Sequence[str] | None = None,
    accuracies: Mapping[str, float] | None = None,
    checks: Sequence[Mapping[str, Any]] = (),
    title: str | None = None,
    top: int = 100,
) -> Path:
    """Write one HTML file that needs no network, runs no script, and is the same for the same input.

    Args:
        run: The run that the scores are about.
        scores: Contributions (positive helps, unit of the query).
        path: File to write; its folder is made, an older file replaced.
        query: Which query of the scores; the first if None.
        suspects: What hg.suspects returned, most suspect first: columns sample, given_label, contribution,
            and optionally suggested_label, true_label, flipped. If None, the most harmful and most helpful
            samples are shown.
        picture: Picture of a training sample, uint8, (height, width) or (height, width, 3).
        classes: Name of each label.
        accuracies: Name ("noisy labels", "cleaned", "clean labels") to accuracy, a fraction.
        checks: Predicted against actual changes: name, predicted and actual, each a number or (n,), and unit.
            Those in the scores' evidence are shown as well.
        title: Heading of the page.
        top: How many samples are shown at most.

    Returns:
        The file.

    Raises:
        QueryError: An unknown query, or scores of other samples than the run's.
        PresentationError: Suspects, accuracies, pictures or checks that can't be shown.
    """
    if top < 1:
        raise PresentationError(f"At least one sample is shown; top={top} came.")
    length = run.manifest.data["length"]
    last = int(scores.sample_ids.max())
    if last >= length:
        raise QueryError(
            f"The scores are about samples up to {last:,}; the run was trained on samples 0 to "
            f"{length - 1:,}. Give the run that the scores were computed from."
        )
    content = read_content(
        run,
        scores,
        query=0 if query is None else query,
        suspects=suspects,
        pictures=Pictures(picture=picture, classes=classes),
        accuracies=accuracies or {},
        checks=checks,
        title=title,
        top=top,
    )
    file = Path(path)
    html = page(content)
    file.parent.mkdir(parents=True, exist_ok=True)

    def write(to: Path) -> None:
        to.write_text(html, encoding="utf-8", newline="\n")

    replace_file(file, write)
    return file
