"""One prediction and the training samples that moved it, in the terminal."""

import time
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.style import Style
from rich.table import Table
from rich.text import Text
from torch import Tensor
from torch.utils.data import Dataset

from hydragrad.cli.console import columns, console, say, table
from hydragrad.cli.experiment import Experiment
from hydragrad.cli.forecast import announce, store_seconds
from hydragrad.derivatives import BatchStatistics
from hydragrad.errors import RecordingMismatch
from hydragrad.replay import Recording
from hydragrad.scores import sample_losses
from hydragrad.tracking import Store, TopContributions, hypergradients
from hydragrad.tracking.store import FILE

PROJECTION = 2048
"""Columns kept of a training sample's row, where nothing else was asked for."""

WIDTH = 16
"""Columns of a picture in the terminal, at most; each character shows two pixels, one above the other."""
NARROWEST, GAP = 10, 2
SHADES = " ░▒▓█"


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A prediction explained.

    Attributes:
        dataset: Where the sample comes from.
        number: Which sample.
        top: The training samples that moved its loss most.
        predicted: What the model says, and with which probability, where it classifies.
        figures: Flat values for JSON.
    """

    dataset: Dataset[Any]
    number: int
    top: TopContributions
    predicted: tuple[int, float] | None
    figures: dict[str, Any]


def explained(
    asked: Experiment,
    run: Recording,
    name: str,
    number: int,
    *,
    top: int,
    projection: int | None,
    statistics: BatchStatistics | None = None,
) -> Explained:
    """Ask the run's store, which is built if it is not there.

    Args:
        asked: Data, loss and fresh starts.
        run: The run.
        name: Data set of the sample.
        number: Which sample.
        top: How many training samples on either side.
        projection: Columns kept of a training sample's row, 0 for all; None for those of the store that is there.
        statistics: Of BatchNorm's batches; None for what the store that is there did, else exact.

    Raises:
        QueryError: No such sample.
    """
    dataset = asked.data_set(name)
    query = sample_losses(dataset, [number])
    store = _store(asked, run, projection, statistics)
    begin = time.monotonic()
    found = cast(TopContributions, store.contributions(query, top=min(top, len(store.rows))))
    seconds = time.monotonic() - begin
    predicted = _prediction(run, dataset[number])
    figures: dict[str, Any] = {
        "run": str(run.path),
        "sample": f"{name}:{number}",
        "loss": found.query_values[0].item(),
        "most_helpful": found.helpful_ids[0].tolist(),
        "helpful_contributions": found.helpful[0].tolist(),
        "most_harmful": found.harmful_ids[0].tolist(),
        "harmful_contributions": found.harmful[0].tolist(),
        "seconds": seconds,
    }
    if found.helpful_noise is not None and found.harmful_noise is not None:
        figures["columns"] = store.rows.shape[1]
        figures["helpful_standard_errors"] = found.helpful_noise[0].tolist()
        figures["harmful_standard_errors"] = found.harmful_noise[0].tolist()
    if predicted is not None:
        figures |= {"predicted": predicted[0], "probability": predicted[1]}
    return Explained(dataset=dataset, number=number, top=found, predicted=predicted, figures=figures)


def show_explained(asked: Experiment, found: Explained) -> None:
    """Print the sample and the training samples that moved it."""
    figures = found.figures
    label = _label(asked, found.dataset[found.number])
    rows = {"loss": f"{figures['loss']:.4f}", "answered in": f"{1e3 * figures['seconds']:.0f} ms"}
    if label is not None:
        rows = {"label": label} | rows
    if found.predicted is not None:
        rows["predicted"] = f"{_named(asked, found.predicted[0])} ({100 * found.predicted[1]:.1f} %)"
    table(figures["sample"], rows)
    if _has_pictures(asked):
        _pictures(asked, [(found.dataset, found.number, "")])
    for title, side in (
        ("helped most: leaving one out would raise this loss", "helpful"),
        ("harmed most: leaving one out would lower this loss", "harmful"),
    ):
        ids, values = figures[f"most_{side}"], figures[f"{side}_contributions"]
        errors = figures.get(f"{side}_standard_errors", [None] * len(ids))
        samples = [
            (str(i), _label(asked, asked.train_set[i]) or "", _with_error(value, error))
            for i, value, error in zip(ids, values, errors, strict=True)
        ]
        if _has_pictures(asked):
            say(f"\n{title}")
            _pictures(asked, [(asked.train_set, int(i), f"{i}: {label}\n{value}") for i, label, value in samples])
        else:
            columns(title, ("sample", "label", "contribution"), samples)
    say("\nContributions without curvature (HYDRA): read the ranking, not the scale.")
    if "columns" in figures:
        say(
            f"They are estimates, from rows projected to {figures['columns']:,} columns: ± is the standard error of "
            f"that. Whole rows have none: delete {figures['run']}/store and ask with --projection 0."
        )


def _with_error(value: float, error: float | None) -> str:
    return f"{value:+.3g}" if error is None else f"{value:+.3g} ± {error:.1g}"


def _store(asked: Experiment, run: Recording, projection: int | None, statistics: BatchStatistics | None) -> Store:
    folder = run.path / "store"
    if (folder / FILE).exists():
        store = Store.open(folder, run.model, run.loss)
        kept = store.facts.projection and store.facts.projection["dims"]
        if statistics not in (None, store.facts.batch_statistics):
            raise RecordingMismatch(
                f"{folder} was built with --batch-statistics {store.facts.batch_statistics}; asked was {statistics}. "
                f"Ask with that, or delete it."
            )
        if store.facts.steps == len(run.steps) and projection in (None, kept or 0):
            return store
        raise RecordingMismatch(
            f"{folder} was built with --projection {kept or 0} after {store.facts.steps:,} steps; asked were "
            f"--projection {kept or 0 if projection is None else projection} and {len(run.steps):,} steps. Ask with "
            f"that projection, or delete it."
        )
    projection = PROJECTION if projection is None else projection or None
    statistics = statistics or "exact"
    seconds = store_seconds(run, statistics)
    announce("building the store", seconds, _bytes(asked, run, projection), always=False)
    say(f"building {folder}, once")
    return hypergradients(run, projection=projection, store=folder, batch_statistics=statistics)


def _bytes(asked: Experiment, run: Recording, projection: int | None) -> int:
    size = sum(parameter.numel() for parameter in run.model.parameters())
    return 4 * len(asked.train_set) * min(size, projection or size)  # type: ignore[arg-type]


def _prediction(run: Recording, item: Any) -> tuple[int, float] | None:
    try:
        with torch.no_grad():
            output = run.trained_model()(item[0].unsqueeze(0).to(run.device))
    except (RuntimeError, TypeError, AttributeError, KeyError):
        return None  # A model of the user's own that takes something else.
    if not isinstance(output, Tensor) or output.dim() != 2 or output.shape[1] < 2:
        return None
    probability, label = output.softmax(1)[0].max(0)
    return int(label), float(probability)


def _label(asked: Experiment, item: Any) -> str | None:
    label = item[1] if isinstance(item, list | tuple) and len(item) == 2 else None
    return _named(asked, int(label)) if isinstance(label, Tensor | int) and np.ndim(label) == 0 else None


def _named(asked: Experiment, label: int) -> str:
    return asked.classes[label] if asked.classes and label < len(asked.classes) else str(label)


def _has_pictures(asked: Experiment) -> bool:
    return asked.shown is not None and console.is_terminal


def _pictures(asked: Experiment, samples: list[tuple[Dataset[Any], int, str]]) -> None:
    """Pictures side by side with their captions below, as many in a row as the terminal is wide."""
    assert asked.shown is not None
    width = max(NARROWEST, min(WIDTH, console.width // len(samples) - GAP))
    draw = half_blocks if console.color_system is not None and not console.no_color else shades
    row = max(1, console.width // (width + GAP))
    for start in range(0, len(samples), row):
        grid = Table.grid(padding=(0, GAP, 0, 0))
        parts = [
            Text.assemble(draw(asked.shown(dataset[number][0]), width), f"\n{caption}" if caption else "")
            for dataset, number, caption in samples[start : start + row]
        ]
        grid.add_row(*parts)
        console.print(grid)


def half_blocks(picture: NDArray[np.uint8], width: int = WIDTH) -> Text:
    """A picture, (height, width) or (height, width, 3), as coloured half blocks."""
    pixels = _resized(picture, width, 2)
    text = Text()
    for row in range(0, len(pixels), 2):
        for upper, lower in zip(pixels[row], pixels[row + 1], strict=True):
            text.append("▀", Style(color=_colour(upper), bgcolor=_colour(lower)))
        text.append("\n" if row + 2 < len(pixels) else "")
    return text


def shades(picture: NDArray[np.uint8], width: int = WIDTH) -> Text:
    """A picture, (height, width) or (height, width, 3), in five shades, for terminals without colour."""
    grey = _resized(picture, width, 1).mean(2)
    levels = (grey / 256 * len(SHADES)).astype(int)
    return Text("\n".join("".join(SHADES[level] for level in row) for row in levels))


def _resized(picture: NDArray[np.uint8], width: int, pixels_a_line: int) -> NDArray[np.uint8]:
    """Pixels (height, width, 3); a character is about twice as high as wide."""
    lines = max(1, round(width * picture.shape[0] / picture.shape[1] / 2))
    image = Image.fromarray(picture).convert("RGB")
    return np.asarray(image.resize((width, lines * pixels_a_line), Image.Resampling.BOX))


def _colour(pixel: NDArray[np.uint8]) -> str:
    red, green, blue = pixel.tolist()
    return f"#{red:02x}{green:02x}{blue:02x}"
