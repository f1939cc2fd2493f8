"""Which estimator suits a run: what `smoothness` found, kept with the run, and what the model itself gives away."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from hydragrad.derivatives import LossModule
from hydragrad.derivatives.kinks import kinks
from hydragrad.randomness import preserved
from hydragrad.replay import Recording
from hydragrad.runs.kept import KeptValues

NAME = "smoothness"


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Options of `attribute` that foretold removals best on runs like this one.

    Attributes:
        options: The best: keyword arguments of `attribute`.
        quick: The best at the price of one sweep.
        because: What was measured, a part of a sentence.
    """

    options: dict[str, Any]
    quick: dict[str, Any]
    because: str

    def keep(self, run: Recording) -> None:
        """Save it in RUN/smoothness.json, where `attribute` finds it; a run on a read-only disk does without."""
        KeptValues(run.path, NAME, run.digest).write(asdict(self))


def kept_advice(run: Recording) -> Advice | None:
    """What `smoothness` saved of this very run, if anything that can be read."""
    return KeptValues(run.path, NAME, run.digest).read_as(Advice)


def words(options: Mapping[str, Any]) -> str:
    """Options as they are typed in Python."""
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def advice_notes(run: Recording, asked: Mapping[str, Any]) -> list[str]:
    """A note where another estimator is known, or likely, to foretell removals better than the one that was asked for.

    Args:
        run: The run.
        asked: `curvature`, `damping` and `replays`, as they were asked for.
    """
    advice = kept_advice(run)
    if advice is not None:
        if any(_at_least(asked, good) for good in (advice.options, advice.quick)):
            return []
        either = "" if advice.quick == advice.options else f", or in one sweep with {words(advice.quick)}"
        return [
            f"To foretell what removing samples does, ask this run with {words(advice.options)}{either}: "
            f"{advice.because}."
        ]
    if asked["replays"] or asked["curvature"] == "ggn":
        return []
    found = _kinks(run)
    if not found:
        return []
    return [
        f"The model has kinks ({', '.join(found)}), so this may not foretell what removing samples does; "
        f"hg.smoothness(run) (hydragrad smoothness) finds out, and which estimator suits."
    ]


def _at_least(asked: Mapping[str, Any], good: Mapping[str, Any]) -> bool:
    """Whether what was asked for is what is advised, or the same with more replays."""
    same = all(asked[name] == good.get(name, 0.0) for name in ("curvature", "damping"))
    return same and asked["replays"] >= good.get("replays", 0)


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
