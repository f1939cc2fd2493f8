"""What a page is about: a recorded run, or a model trained elsewhere."""

from dataclasses import dataclass
from math import prod
from typing import Any

from hydragrad.replay import Recording, samples_in
from hydragrad.reports.facts import run_facts
from hydragrad.reports.wording import counted, number
from hydragrad.trained_elsewhere import Checkpoints
from hydragrad.training import epoch_logs

HOW_OVER_TIME = (
    "These scores do not hold what every epoch added. Compute it: hg.attribute(run, query, stretches=epochs), or "
    "hydragrad attribute RUN once more."
)
NEVER_OVER_TIME = (
    "What every epoch added is not known: checkpoints of a model trained elsewhere hold no record of its steps. Record "
    "the training (hg.train or hg.Recorder) to see it."
)
DIGITS = 12
"""Of a digest, on the page."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained model, as the page names it.

    Attributes:
        name: Its run directory, or the class of the model.
        samples: How many it was trained on.
        trained: How, in one sentence.
        source: What the scores were computed from.
        heading, caption: Of its facts.
        facts: Names and values.
        epochs: The epoch log; empty where there is none.
        how_over_time: How contributions over time could be had.
    """

    name: str
    samples: int
    trained: str
    source: str
    heading: str
    caption: str
    facts: tuple[tuple[str, str], ...]
    epochs: list[dict[str, Any]]
    how_over_time: str

    def lead(self, query: str, value: float) -> list[str]:
        """What was trained, and what hydragrad did with it."""
        return [
            self.trained,
            f"From {self.source}, hydragrad estimated for each sample whether having trained on it raised or "
            f"lowered “{query}”, which is {number(value)} for the finished model.",
        ]


def subject_of(run: Recording | Checkpoints) -> Subject:
    """The subject of a page."""
    return _elsewhere(run) if isinstance(run, Checkpoints) else _recorded(run)


def _recorded(run: Recording) -> Subject:
    model = run.manifest.model["class"].rsplit(".", 1)[-1]
    epochs, trained = run.manifest.about.get("epochs"), counted(len(run.steps), "step")
    if isinstance(epochs, int) and run.completed:
        trained = f"{counted(epochs, 'epoch')} ({trained})"
    return Subject(
        name=run.path.name,
        samples=samples_in(run),
        trained=f"A model ({model}) was trained on {counted(samples_in(run), 'sample')} for {trained}, "
        f"and the training was recorded.",
        source="the recording",
        heading="The run",
        caption="Facts about the recorded training",
        facts=run_facts(run),
        epochs=epoch_logs(run.path),
        how_over_time=HOW_OVER_TIME,
    )


def _elsewhere(checkpoints: Checkpoints) -> Subject:
    kind, saved = type(checkpoints.model), counted(len(checkpoints), "checkpoint")
    states = zip(checkpoints.names, checkpoints.digests, strict=True)
    return Subject(
        name=kind.__name__,
        samples=samples_in(checkpoints),
        trained=f"A model ({kind.__name__}) was trained elsewhere on {counted(samples_in(checkpoints), 'sample')}. The "
        f"training was not recorded; {saved} of it {'is' if len(checkpoints) == 1 else 'are'} left.",
        source="the checkpoint" if len(checkpoints) == 1 else "the checkpoints",
        heading="The model, trained elsewhere",
        caption="Facts about the model and its checkpoints",
        facts=(
            ("Model", f"{kind.__module__}.{kind.__qualname__}"),
            ("Parameters", f"{sum(prod(p.shape) for p in checkpoints.model.parameters()):,}"),
            ("Training samples", f"{samples_in(checkpoints):,}"),
            ("Checkpoints", f"{len(checkpoints):,}, in the order of training"),
            *((f"Checkpoint {name}", f"weights with digest {digest[:DIGITS]}") for name, digest in states),
        ),
        epochs=[],
        how_over_time=NEVER_OVER_TIME,
    )
