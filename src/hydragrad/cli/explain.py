"""One prediction and the training samples that moved it, in the terminal."""

import time
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.columns import Columns
from rich.style import Style
from rich.text import Text
from torch import Tensor
from torch.utils.data import Dataset

from hydragrad.cli.console import console, say, table
from hydragrad.cli.experiment import Experiment
from hydragrad.cli.forecast import announce, attribution_seconds
from hydragrad.errors import RecordingMismatch
from hydragrad.recording import Recording
from hydragrad.scores import sample_losses
from hydragrad.tracking import Store, TopContributions, hypergradients
from hydragrad.tracking.store import FILE

WIDTH = 16
"""Columns of a picture in the terminal; each character shows two pixels, one above the other."""


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
    asked: Experiment, run: Recording, name: str, number: int, *, top: int, projection: int | None
) -> Explained:
    """Ask the run's store, which is built if it is not there.

    Raises:
        QueryError: No such sample.
    """
    dataset = asked.data_set(name)
    query = sample_losses(dataset, [number])
    store = _store(asked, run, projection)
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
    _picture(asked, [(found.dataset, found.number, "")])
    for word, ids, values in (
        ("helped most (their loss weight lowers this loss)", found.top.helpful_ids[0], found.top.helpful[0]),
        ("harmed most (their loss weight raises this loss)", found.top.harmful_ids[0], found.top.harmful[0]),
    ):
        say(f"\n{word}:")
        shown = [
            (asked.train_set, i, f"{i}: {_label(asked, asked.train_set[i]) or ''} {value:+.3g}")
            for i, value in zip(ids.tolist(), values.tolist(), strict=True)
        ]
        _picture(asked, shown)
    say("\nContributions without curvature (HYDRA): read the ranking, not the scale.")


def _store(asked: Experiment, run: Recording, projection: int | None) -> Store:
    folder = run.path / "store"
    if (folder / FILE).exists():
        store = Store.open(folder, run.model, run.loss)
        kept = store.facts.projection and store.facts.projection["dims"]
        if store.facts.steps == len(run.steps) and kept == projection:
            return store
        raise RecordingMismatch(
            f"{folder} was built with --projection {kept or 0} after {store.facts.steps:,} steps; asked were "
            f"--projection {projection or 0} and {len(run.steps):,} steps. Ask with that projection, or delete it."
        )
    announce("building the store", attribution_seconds(run, "none"), _bytes(asked, run, projection), always=False)
    say(f"building {folder}, once")
    return hypergradients(run, projection=projection, store=folder)


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


def _picture(asked: Experiment, samples: list[tuple[Dataset[Any], int, str]]) -> None:
    """Pictures side by side with their captions; captions alone where there are no pictures."""
    parts = []
    for dataset, number, caption in samples:
        text = Text(caption)
        if asked.shown is not None and console.is_terminal:
            text = Text.assemble(half_blocks(asked.shown(dataset[number][0])), "\n", caption)
        parts.append(text)
    if any(part.plain for part in parts):
        console.print(Columns(parts, padding=(0, 2)))


def half_blocks(picture: NDArray[np.uint8], width: int = WIDTH) -> Text:
    """A picture, (height, width) or (height, width, 3), as coloured half blocks."""
    height = 2 * max(1, round(width * picture.shape[0] / picture.shape[1] / 2))
    pixels = np.asarray(Image.fromarray(picture).convert("RGB").resize((width, height), Image.Resampling.BOX))
    text = Text()
    for row in range(0, height, 2):
        for upper, lower in zip(pixels[row], pixels[row + 1], strict=True):
            text.append("▀", Style(color=_colour(upper), bgcolor=_colour(lower)))
        text.append("\n" if row + 2 < height else "")
    return text


def _colour(pixel: NDArray[np.uint8]) -> str:
    red, green, blue = pixel.tolist()
    return f"#{red:02x}{green:02x}{blue:02x}"
