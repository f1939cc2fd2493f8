"""Decisions of a person about labels, whichever tool they were made in, held to the run that they are about."""

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from hydragrad.cleaning.changed_sets import relabelled
from hydragrad.errors import MarksInvalid
from hydragrad.replay import Trained, label_of, labels_of

SHORTEST_DIGEST = 12
"""Digits of a digest that are enough to name a run."""

NOT_STATED: Any = object()
"""Stands for a given label that a file does not hold."""


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Decisions about samples.

    Attributes:
        fixed: The right label of each sample whose label is wrong.
        fine: Samples whose label is right.
    """

    fixed: Mapping[int, int]
    fine: tuple[int, ...]

    def relabelled(self, run: Trained) -> Dataset[Any]:
        """Return the run's training set with the fixed labels.

        Raises:
            DataError: Its items do not hold what its batches hold as the label.
            LossError: No tensor of the batches is the label, or several are.
        """
        return relabelled(run.train_set, list(self.fixed), list(self.fixed.values()), label_of(run))


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a file says about one sample, before it is checked.

    Attributes:
        sample: Its number.
        label: The right label.
        given_label: The label that the sample carried when it was decided on, if the file says so.
        fine: Whether the given label is right, whatever `label` says; if None, `label` is compared with it.
    """

    sample: Any
    label: Any
    given_label: Any = NOT_STATED
    fine: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Decided:
    """All decisions of a file.

    Attributes:
        source: The file, for messages.
        run: Digest of the run that they are about, at least 12 digits, if the file says so.
        decisions: In the order of the file.
        how_to_redo: What to do where they do not fit, for messages.
    """

    source: str
    run: Any
    decisions: tuple[Decision, ...]
    how_to_redo: str


def checked_marks(
    decided: Decided, run: Trained, labels: Collection[int], names: Mapping[int, str] | None = None
) -> Marks:
    """Hold decisions to the run that they are about.

    Args:
        decided: The decisions.
        run: The run.
        labels: The labels that exist.
        names: What the labels are called, for messages.

    Raises:
        MarksInvalid: Another run, samples or labels that do not exist, labels that have changed since, two decisions
            about one sample, or nothing to change.
    """
    source = decided.source
    _require_same_run(decided, run)
    recorded = labels_of(run).tolist()
    fixed: dict[int, int] = {}
    fine: dict[int, None] = {}
    for decision in decided.decisions:
        sample, label = _sample(source, decision.sample, len(recorded)), decision.label
        if sample in fixed or sample in fine:
            raise MarksInvalid(f"{source} marks sample {sample} twice. Keep one of its marks.")
        if decision.given_label is not NOT_STATED and decision.given_label != recorded[sample]:
            raise MarksInvalid(
                f"{source} says that sample {sample} carries label {decision.given_label!r}; in this run it is "
                f"{recorded[sample]}. The labels have changed since: mark again."
            )
        if decision.fine:
            fine[sample] = None
        elif not isinstance(label, int) or isinstance(label, bool) or label not in labels:
            raise MarksInvalid(
                f"{source} gives sample {sample} the label {label!r}, which does not exist; there are "
                f"{_listed(labels, names or {})}."
            )
        elif decision.fine is None and label == recorded[sample]:
            fine[sample] = None
        else:
            fixed[sample] = label
    if not fixed:
        raise MarksInvalid(f"{source} marks no label as fixed ({len(fine):,} as fine), so there is nothing to change.")
    _warn_of_no_run(decided)
    return Marks(fixed=fixed, fine=tuple(fine))


def _require_same_run(decided: Decided, run: Trained) -> None:
    digest = decided.run
    if digest is not None and (len(str(digest)) < SHORTEST_DIGEST or not run.digest.startswith(str(digest))):
        raise MarksInvalid(
            f"{decided.source} holds marks of another run ({str(digest)[:SHORTEST_DIGEST]}; this one is "
            f"{run.digest[:SHORTEST_DIGEST]}). If they are about these samples, {decided.how_to_redo}."
        )


def _warn_of_no_run(decided: Decided) -> None:
    """Say what held the decisions to the run where the file does not name one."""
    if decided.run is not None:
        return
    unstated = sum(decision.given_label is NOT_STATED for decision in decided.decisions)
    held_to = "the labels that it says its samples carried are those of this run"
    if unstated:
        held_to = f"{unstated:,} of its decisions do not say which label the sample carried either: it is not checked"
    warnings.warn(f"{decided.source} does not name the run that it is about; {held_to}.", stacklevel=4)


def _sample(source: str, sample: Any, length: int) -> int:
    if not isinstance(sample, int) or isinstance(sample, bool):
        raise MarksInvalid(f"{source}: every mark must name a sample by its number, got {sample!r:.80}.")
    if not 0 <= sample < length:
        raise MarksInvalid(f"{source} marks sample {sample}; the run was trained on samples 0 to {length - 1:,}.")
    return sample


def _listed(labels: Collection[int], names: Mapping[int, str]) -> str:
    known = [names.get(label, str(label)) for label in sorted(labels)]
    return f"{', '.join(known[:12])}{' …' if len(known) > 12 else ''}"
