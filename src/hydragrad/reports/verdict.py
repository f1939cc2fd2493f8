"""What to make of scores: their evidence and checks in plain sentences."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from hydragrad.reports.comparisons import Comparison
from hydragrad.reports.wording import counted, number
from hydragrad.scores import Amounts, Calibration, Check, Evidence
from hydragrad.scores.amounts import IMPLAUSIBLE
from hydragrad.scores.evidence import INFLUENCE, TRACIN
from hydragrad.scores.notes import NoteKind

CURVATURES = {
    "none": "dropped (HYDRA)",
    "hessian": "exact Hessian",
    "ggn": "Gauss–Newton approximation",
}

ROUTES = {INFLUENCE: "influence functions", TRACIN: "sums over checkpoints (TracIn)"}
AT_CHECKPOINTS = {INFLUENCE: "Gauss–Newton, at checkpoints", TRACIN: "dropped"}

MEASURED: tuple[NoteKind, ...] = ("smoothness", "approximation error")
"""Notes that answer a question of their own on the page."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How far to trust the numbers.

    Attributes:
        headline: In one sentence.
        meaning: What sign and unit mean.
        warnings: What must not be done or was not possible.
        measurements: What was measured about the numbers, and what was not.
        evidence: Names and values.
    """

    headline: str
    meaning: tuple[str, ...]
    warnings: tuple[str, ...]
    measurements: tuple["Measurement", ...]
    evidence: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One piece of evidence.

    Attributes:
        question: What it answers.
        answer: In one sentence, or None where it was not measured.
        how: The command that measures it.
    """

    question: str
    answer: str | None
    how: str


def verdict(evidence: Evidence, comparisons: Sequence[Comparison], amounts: Amounts) -> Verdict:
    """Judge scores by their evidence, by comparisons with what really happened, and by how they are shown."""
    return Verdict(
        headline=_headline(evidence, comparisons, amounts),
        meaning=_meaning(evidence, amounts),
        warnings=_warnings(evidence),
        measurements=_measurements(evidence, comparisons),
        evidence=_facts(evidence),
    )


def _headline(evidence: Evidence, comparisons: Sequence[Comparison], amounts: Amounts) -> str:
    if amounts.calibration is not None:
        return _calibrated(amounts.calibration)
    own = [one for one in comparisons if one.curvature in (None, evidence.curvature)]
    if not evidence.scale_is_measured:
        known = "the checks show how far their scale is off" if own else "their scale has not been measured"
        other = [CURVATURES[one.curvature] for one in comparisons if one not in own and one.curvature]
        further = f" The predictions of change below were made with another curvature ({other[0]})." if other else ""
        return f"Use these numbers as a ranking only: {known}.{further}"
    if evidence.curvature == "none":
        return (
            "Use these numbers as a ranking; for their scale, go by what the checks measured, not by the "
            "numbers themselves."
        )
    kind = (
        "These are the exact first derivatives of this training run."
        if evidence.curvature == "hessian" and not evidence.damping
        else "These approximate the first derivatives of this training run."
    )
    if own:
        return f"{kind} Checked by really training again: {_largest(own).sentence}"
    return f"{kind} Whether they predict real changes has not been checked on this run (hg.verify)."


def _calibrated(calibration: Calibration) -> str:
    scale, low, high = map(number, (calibration.scale, calibration.low, calibration.high))
    return (
        f"The scale of these contributions was measured by really leaving {calibration.groups} groups out, and is in "
        f"the numbers: actual changes are {scale} times the computed ones (90 % interval {low} to {high})."
    )


def _largest(comparisons: Sequence[Comparison]) -> Comparison:
    """The one with the most pairs."""
    return max(comparisons, key=lambda one: one.agreement.count)


def _measurements(evidence: Evidence, comparisons: Sequence[Comparison]) -> tuple[Measurement, ...]:
    notes = {note.kind: note.text for note in evidence.notes}
    exact = "Yes: every step was repeated to the last bit."
    drift = (
        f"Nearly: on another machine than the recording's, or with the gradients of several processes added in another "
        f"order, weights drifted by at most {number(evidence.replay_drift)} of their size."
    )
    if evidence.trained_elsewhere:
        return (
            Measurement(
                question="Are predictions right?",
                answer=_largest(comparisons).sentence if comparisons else None,
                how="it takes a recorded training, hg.train or hg.Recorder, and then hg.verify",
            ),
        )
    nothing_dropped = None if evidence.curvature == "none" else "Nothing: the curvature is in these numbers."
    if evidence.from_checkpoints:
        nothing_dropped = f"Nothing: {ROUTES[evidence.route]} take no derivative of the run."
        exact = f"Not needed: {ROUTES[evidence.route]} use checkpoints of the run as they were saved."
    return (
        Measurement(
            question="Are predictions right?",
            answer=_largest(comparisons).sentence if comparisons else None,
            how="hydragrad verify RUN, or hg.verify",
        ),
        Measurement(
            question="What did dropping the curvature cost?",
            answer=notes.get("approximation error", nothing_dropped),
            how="hydragrad bound RUN, or hg.approximation_error",
        ),
        Measurement(
            question="Is the run smooth enough for derivatives?",
            answer=notes.get("smoothness"),
            how="hg.smoothness(run).noted(scores.evidence)",
        ),
        Measurement(
            question="Was the training repeated exactly?", answer=exact if evidence.replay_exact else drift, how=""
        ),
    )


def _meaning(evidence: Evidence, amounts: Amounts) -> tuple[str, ...]:
    sign = (
        "Negative harms, by the same measure. This takes the query for a loss, where low is good; for one "
        "that should be high, such as a margin, helps and harms change places."
    )
    if amounts.kind != "share":
        return (
            "Positive helps: had the sample not been trained on, the query would be higher by about this much.",
            sign,
            "The unit is that of the query. For a group of samples, add their contributions up. Both hold to "
            "first order: the larger the change, the rougher the estimate.",
        )
    why = (
        "influence functions of checkpoints approximate what other runs lose without the sample"
        if evidence.route == INFLUENCE
        else "without the curvature of the loss it can be wrong by orders of magnitude"
        if evidence.curvature == "none"
        else f"single contributions exceed the query itself more than {IMPLAUSIBLE:g} times, which no change does"
    )
    known = "no scale fits what the checks measured" if evidence.checks else "their scale has not been measured"
    return (
        "Positive helps: had the sample not been trained on, the query is expected to be higher.",
        sign,
        f"Contributions are in percent of the sum of all sizes, and those of a group add up. They are not in the unit "
        f"of the query because {known}: {why}.",
    )


def _warnings(evidence: Evidence) -> tuple[str, ...]:
    warnings = []
    if not evidence.scale_is_measured:
        why = "come from single checkpoints" if evidence.from_checkpoints else "leave out the curvature of the loss"
        warnings.append(
            f"Do not read the scale as predicted change: these scores {why}, "
            "and they carry no measurement of their scale. What can be used is the order."
        )
    if not evidence.completed:
        warnings.append("The run was interrupted; the scores are about its last complete step.")
    return tuple(warnings)


def _facts(evidence: Evidence) -> tuple[tuple[str, str], ...]:
    derivatives = (
        (("Curvature of the loss", AT_CHECKPOINTS[evidence.route]), ("Route", ROUTES[evidence.route]))
        if evidence.from_checkpoints
        else (
            ("Curvature of the loss", _curvature(evidence)),
            ("Route of the derivatives", evidence.route),
            ("Steps differentiated", f"{evidence.steps:,}"),
        )
    )
    return (
        *derivatives,
        *(
            (f"Compared: {one.what}", f"{counted(one.times, 'time')}, apart by at most {one.gap:.0e}")
            for one in evidence.compared
        ),
        ("Scale measured", _scale(evidence)),
        *((check.name or "Check", _entries(check)) for check in evidence.checks if not check.predicted),
        *(("Note", note.text) for note in evidence.notes if note.kind not in MEASURED),
    )


def _curvature(evidence: Evidence) -> str:
    options = {"damping": evidence.damping or None, "smoothing": evidence.smoothing}
    others = [f"{name} {number(value)}" for name, value in options.items() if value is not None]
    return ", ".join([CURVATURES[evidence.curvature], *others])


def _entries(check: Check) -> str:
    """What was measured, where there are no changes to draw."""
    values: dict[str, Any] = {
        entry.name.replace("_", " "): getattr(check, entry.name)
        for entry in fields(check)
        if entry.name not in ("name", "kind") and getattr(check, entry.name) != entry.default
    }
    return "; ".join(f"{name} {number(value) if isinstance(value, float) else value}" for name, value in values.items())


def _scale(evidence: Evidence) -> str:
    if evidence.checks:
        return f"yes, by {counted(len(evidence.checks), 'check')}"
    return "follows from the derivative; no check yet" if evidence.scale_is_measured else "no"
