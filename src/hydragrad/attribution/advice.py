"""Which method suits a run: what `smoothness` measured, saved with the run, and what the model's operations show."""

from dataclasses import dataclass
from typing import Any

import torch

from hydragrad.derivatives import LossModule
from hydragrad.derivatives.kinks import kinks
from hydragrad.randomness import preserved
from hydragrad.replay import Recording
from hydragrad.runs.kept import KeptValues
from hydragrad.scores import Method, Note

NAME = "smoothness"


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

    def save(self, run: Recording) -> None:
        """Save it in RUN/smoothness.json, where `attribute` reads it; a run on a read-only disk goes without."""
        entries = {"options": self.best.options, "quick": self.quick.options, "because": self.because}
        KeptValues(run.path, NAME, run.digest).write(entries)


def saved_advice(run: Recording) -> Advice | None:
    """What `smoothness` saved of this very run, if anything that can be read."""
    return KeptValues(run.path, NAME, run.digest).read_as(_advice)


def _advice(*, options: dict[str, Any], quick: dict[str, Any], because: str) -> Advice:
    return Advice(best=Method.of(**options), quick=Method.of(**quick), because=because)


def advice_notes(run: Recording, method: Method) -> list[Note]:
    """A note where another method is known, or likely, to predict removals better than this one."""
    advice = saved_advice(run)
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
        losses, _ = problem.at(parameters, buffers, run.batches(record)[0])
        return kinks(losses)
