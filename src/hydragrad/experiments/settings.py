"""What a run was trained with on the command line, as its manifest saves it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from hydragrad.datasets import TEXTS
from hydragrad.errors import RecordingMismatch
from hydragrad.experiments.recipes import OptimizerName
from hydragrad.runs.manifest import read_manifest

MAY_DIFFER = ("epochs", "device", "tokenizer")
"""Settings that a resumed run may change: it may train longer, on another device, and be shown by another tokenizer.

Not longer on a text, whose schedule is one over all epochs."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Data, model and options of one training.

    Attributes:
        source: `module:function` of the user's own, or None for a data set and model by name.
        tokenizer: `module:name` of what decodes its tokens, or of a function that returns it.
        data, model, optimizer: Names, where `source` is None.
        noise: Share of the training labels flipped.
        train_size, validation_size, test_size: Samples of each part, or None for all.
        sizes: Options of a model for texts, and `block_size`, as far as they were chosen.
        epochs, batch_size, drop_last: As trained.
        accumulate: Batches of a step.
        clip_norm: L2 norm that a step's gradient is clipped to, or None.
        bf16: Whether forward passes run under autocast to bfloat16.
        lr: Initial rate, or None for the recipe's.
        seed: Initialisation, order, randomness and noise.
        device: cpu or cuda.
    """

    source: str | None = None
    tokenizer: str | None = None
    data: str | None = None
    model: str | None = None
    optimizer: OptimizerName | None = "sgd"
    noise: float = 0.0
    train_size: int | None = None
    validation_size: int | None = None
    test_size: int | None = None
    sizes: dict[str, Any] | None = None
    epochs: int = 10
    batch_size: int = 64
    drop_last: bool = False
    accumulate: int = 1
    clip_norm: float | None = None
    bf16: bool = False
    lr: float | None = None
    seed: int = 0
    device: str = "cpu"

    @classmethod
    def read(cls, saved: dict[str, Any]) -> Self:
        """Settings from a manifest; those without an optimizer are of runs from before there was a choice."""
        return cls(**({"optimizer": None if saved.get("source") else "sgd"} | saved))


def settings_entry(settings: Settings) -> dict[str, Any]:
    """Return the manifest's entry."""
    return {"settings": asdict(settings)}


def require_same_settings(run: Path, settings: Settings) -> None:
    """Refuse to resume a run with other settings, except `MAY_DIFFER`.

    Raises:
        RecordingMismatch: Names what differs.
    """
    recorded = read_manifest(run).about.get("settings")
    if recorded is None:
        raise RecordingMismatch(f"{run} was recorded from Python; resume it there, with resume=True.")
    before = asdict(Settings.read(recorded))
    may_differ = [name for name in MAY_DIFFER if name != "epochs" or settings.data not in TEXTS]
    differing = [
        f"{name}: {before[name]} then, {value} now"
        for name, value in asdict(settings).items()
        if value != before[name] and name not in may_differ
    ]
    if differing:
        raise RecordingMismatch(
            f"{run} was trained with other settings ({'; '.join(differing)}). Repeat the command that it was trained "
            f"with, and add --resume."
        )
