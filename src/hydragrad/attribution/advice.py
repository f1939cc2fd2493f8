"""Which method suits a run: what `smoothness` measured, saved with the run, and what the model's operations show."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from hydragrad.derivatives import LossModule
from hydragrad.derivatives.kinks import kinks
from hydragrad.randomness import preserved
from hydragrad.replay import Recording
from hydragrad.scores import Method, Note

FILE = "smoothness.json"


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Methods that predicted removals best on runs like this one.

    Attributes:
        best: The best one.
        quick: The best one at the price of one sweep.
        because: What was measured, a part of a sentence.
    """

    best: Method
    quick: Method
    because: str

    def save(self, run: Path) -> None:
        """Write it into the run directory, where `attribute` reads it; a run on a read-only disk goes without."""
        entries = {"options": self.best.options, "quick": self.quick.options, "because": self.because}
        try:
            (run / FILE).write_text(json.dumps(entries, indent=1) + "\n")
        except OSError:
            return


def saved_advice(run: Path) -> Advice | None:
    """What `smoothness` left in the run directory, if there is anything that can be read."""
    try:
        entries = json.loads((run / FILE).read_text())
        best, quick = Method.of(**entries["options"]), Method.of(**entries["quick"])
        return Advice(best=best, quick=quick, because=entries["because"])
    except (OSError, KeyError, ValueError, TypeError):
        return None


def advice_notes(run: Recording, method: Method) -> list[Note]:
    """A note where another method is known, or likely, to predict removals better than this one."""
    advice = saved_advice(run.path)
    if advice is not None:
        if method.covers(advice.best) or method.covers(advice.quick):
            return []
        either = "" if advice.quick == advice.best else f", or in one sweep with {advice.quick.in_python}"
        text = (
            f"To predict what removing samples does, attribute this run with {advice.best.in_python}{either}: "
            f"{advice.because}."
        )
        return [Note("advice", text)]
    if method.replays or method.curvature == "ggn":
        return []
    operations = _kinks(run)
    if not operations:
        return []
    text = (
        f"The model has kinks ({', '.join(operations)}), so this may not predict what removing samples does; "
        f"hg.smoothness(run) (hydragrad smoothness) measures whether it does, and which method suits."
    )
    return [Note("advice", text)]


def _kinks(run: Recording) -> list[str]:
    record = run.steps[0]
    problem, start = LossModule(run.model, run.loss), run.initial
    with preserved(), torch.enable_grad():
        parameters = {
            name: value.to(run.device).detach().requires_grad_(value.is_floating_point())
            for name, value in start.parameters.items()
        }
        buffers = {name: value.to(run.device) for name, value in start.buffers.items()}
        losses, _ = problem.at(parameters, buffers, run.batch(record))
        return kinks(losses)
