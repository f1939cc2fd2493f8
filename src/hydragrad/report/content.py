"""What the page says: run and scores turned into plain data, nothing drawn and nothing marked up yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hydragrad.recording import Recording
from hydragrad.report.facts import run_facts
from hydragrad.report.samples import CardGroup, Pictures, extreme_groups, require_suspects, suspect_group
from hydragrad.report.verdict import Check, Verdict, read_checks, verdict
from hydragrad.report.wording import counted, number, percent
from hydragrad.scores import Scores
from hydragrad.training import epoch_logs


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """The contributions of all scored samples, (samples,), those that are numbers.

    Attributes:
        values: Contributions.
        marked: True for samples with a flipped label, or None where that is not known.
        left_out: How many contributions are NaN or infinite.
    """

    values: NDArray[np.float64]
    marked: NDArray[np.bool_] | None
    left_out: int


@dataclass(frozen=True, kw_only=True)
class Content:
    """Everything on the page, in its order."""

    title: str
    lead: tuple[str, ...]
    query: str
    accuracies: Mapping[str, float]
    groups: tuple[CardGroup, ...]
    found: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    distribution: Distribution
    logs: Sequence[Mapping[str, float]]
    checks: tuple[Check, ...]
    verdict: Verdict
    facts: tuple[tuple[str, str], ...]


def read_content(
    run: Recording,
    scores: Scores,
    *,
    query: str | int,
    suspects: pd.DataFrame | None,
    pictures: Pictures,
    accuracies: Mapping[str, float],
    checks: Sequence[Mapping[str, Any]],
    title: str | None,
    top: int,
) -> Content:
    """Collect the page's content.

    Raises:
        QueryError: An unknown query.
        PresentationError: Suspects or checks without the entries that are needed.
    """
    values = scores.row(query).numpy()
    position = query if isinstance(query, int) else scores.query_names.index(query)
    name = scores.query_names[position]
    groups: tuple[CardGroup, ...]
    if suspects is None:
        groups = extreme_groups(run, scores, query, pictures, top)
    else:
        suspects = require_suspects(suspects)
        groups = (suspect_group(suspects, pictures, top),)
    read = read_checks(scores.evidence, checks)
    flipped = _flipped(suspects, scores)
    finite = np.isfinite(values)
    return Content(
        title=title or _title(suspects),
        lead=(*_lead(run, name, float(scores.query_values[position]), suspects), *_gain(accuracies)),
        query=name,
        accuracies=accuracies,
        groups=groups,
        found=None if suspects is None or flipped is None else _found(suspects),
        distribution=Distribution(
            values=values[finite],
            marked=None if flipped is None else flipped[finite],
            left_out=int((~finite).sum()),
        ),
        logs=epoch_logs(run.path),
        checks=read,
        verdict=verdict(scores.evidence, read),
        facts=run_facts(run),
    )


def _title(suspects: pd.DataFrame | None) -> str:
    if suspects is None:
        return "Which training samples helped this model, and which harmed it"
    return "Training samples that probably carry a wrong label"


def _lead(run: Recording, query: str, value: float, suspects: pd.DataFrame | None) -> list[str]:
    model = run.manifest.model["class"].rsplit(".", 1)[-1]
    epochs, trained = run.manifest.about.get("epochs"), counted(len(run.steps), "step")
    if isinstance(epochs, int) and run.completed:
        trained = f"{counted(epochs, 'epoch')} ({trained})"
    lead = [
        f"A model ({model}) was trained on {counted(run.manifest.data['length'], 'sample')} for {trained}, "
        f"and the training was recorded.",
        f"From the recording, hydragrad estimated for each sample whether having trained on it raised or "
        f"lowered “{query}”, which is {number(value)} for the finished model.",
    ]
    if suspects is not None:
        lead.append("Samples that did the model the most harm under the label they have come first below.")
    return lead


def _gain(accuracies: Mapping[str, float]) -> list[str]:
    if not {"noisy labels", "cleaned"} <= accuracies.keys():
        return []
    before, after = accuracies["noisy labels"], accuracies["cleaned"]
    verb = "rose" if after > before else "fell" if after < before else "went"
    return [f"After cleaning and training again, accuracy {verb} from {percent(before)} to {percent(after)}."]


def _flipped(suspects: pd.DataFrame | None, scores: Scores) -> NDArray[np.bool_] | None:
    """Which scored samples have a flipped label, if the suspects tell it of every one of them."""
    if suspects is None or "flipped" not in suspects:
        return None
    known = dict(zip(suspects["sample"], suspects["flipped"].astype(bool), strict=True))
    ids = scores.sample_ids.tolist()
    if not known.keys() >= set(ids):
        return None
    return np.array([known[i] for i in ids], dtype=bool)


def _found(suspects: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Shares found and inspected, at no more points than can be seen."""
    flipped = suspects["flipped"].to_numpy(dtype=bool)
    if not flipped.any():
        return None
    found = np.concatenate([[0.0], flipped.cumsum() / flipped.sum()])
    at = np.unique(np.linspace(0, len(flipped), min(len(flipped), 300) + 1).astype(int))
    return found[at], at / len(flipped)
