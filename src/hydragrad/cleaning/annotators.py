"""Labels of several annotators: which of their labels are suspect, and how good each annotator is.

CROWDLAB weighs the annotators' labels and the model's probabilities by how often each agrees with the others. It is
computed by cleanlab, from what training showed about the samples.

Source: Goh, Tkachenko and Mueller, "CROWDLAB: supervised learning to infer consensus labels and quality scores for data
with multiple annotators", 2022.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hydragrad.cleaning.signals import Signals, training_signals
from hydragrad.errors import FrameworkMissing, QueryError
from hydragrad.replay import Recording, samples_in
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere import Checkpoints


class Annotations(NamedTuple):
    """Labels of several annotators, judged.

    Attributes:
        labels: One row a label that was given, the most suspect first: `sample`, `annotator`, `given_label`,
            `suggested_label` (the consensus of annotators and model), `quality` (0 to 1: how likely the given label is
            right).
        annotators: One row an annotator, the worst first: `annotator`, `quality` (0 to 1: how often the labels agree
            with the consensus and with the model), `agreement` (share of labels that equal the consensus, of
            samples that others labelled too), `labels` (how many), `worst_class` (most often mistaken).
        samples: One row a sample with labels: `sample`, `consensus_label`, `quality` of it, `agreement` (share of its
            labels that equal it), `labels` (how many).
    """

    labels: pd.DataFrame
    annotators: pd.DataFrame
    samples: pd.DataFrame


@in_clean_surroundings
def annotations(
    run: Recording | Checkpoints, labels: pd.DataFrame | ArrayLike, *, signals: Signals | None = None
) -> Annotations:
    """Judge the labels that several annotators gave to the training samples.

    Args:
        run: A run of a classifier on one label a sample (a majority vote, or the label of one annotator), or
            checkpoints of one trained elsewhere.
        labels: Classes (samples, annotators) in the order of the training set; NaN, None or a negative number where an
            annotator gave none. Columns of a data frame name the annotators.
        signals: What training shows; measured if None. With folds (`training_signals(run, folds=...)`) the
            probabilities are those of models that never saw the sample; without, the mean over training.

    Raises:
        QueryError: Labels of another number of samples, or that are no classes of the model; or nobody labelled a
            sample that somebody else labelled, too.
        LossError: The model is no classifier of one class a sample.
        FrameworkMissing: cleanlab is not installed.

    Cost: that of `training_signals`.
    """
    names, given = _read(labels)
    if len(given) != samples_in(run):
        raise QueryError(f"labels must have a row for each of the {samples_in(run):,} samples, got {len(given):,}.")
    own = training_signals(run) if signals is None else signals
    probabilities = (own.over_training if own.out_of_fold is None else own.out_of_fold).numpy()
    _require_classes(given, probabilities.shape[1])
    samples, columns = (np.flatnonzero(~np.isnan(given).all(axis)) for axis in (1, 0))
    if not ((~np.isnan(given)).sum(1) > 1).any():
        raise QueryError("Several annotators must have labelled some samples; each has one label. Use hg.suspects.")
    judged = _crowdlab(given[np.ix_(samples, columns)], probabilities[samples])
    return _frames(judged, given, samples, columns, names)


def _read(labels: pd.DataFrame | ArrayLike) -> tuple[list[Any], NDArray[np.float64]]:
    """Names of the annotators, and their labels, NaN where there is none."""
    try:
        given = np.array(labels, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise QueryError(f"labels must be numbers of classes, NaN where there is none; got: {error}.") from error
    if given.ndim != 2:
        raise QueryError(f"labels must be a table (samples, annotators), got the shape {given.shape}.")
    given[given < 0] = np.nan
    return list(labels.columns) if isinstance(labels, pd.DataFrame) else list(range(given.shape[1])), given


def _require_classes(given: NDArray[np.float64], classes: int) -> None:
    known = given[~np.isnan(given)]
    wrong = known[(known >= classes) | (known != np.floor(known))]
    if len(wrong):
        raise QueryError(f"Labels must be classes 0 to {classes - 1}, NaN where there is none; got {wrong[0]:g}.")


def _crowdlab(given: NDArray[np.float64], probabilities: NDArray[np.float64]) -> dict[str, pd.DataFrame]:
    try:
        from cleanlab.multiannotator import get_label_quality_multiannotator  # slow to import
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "cleanlab":
            raise
        raise FrameworkMissing(
            "Labels of several annotators are judged by the package cleanlab, which is not installed. Install it: pip "
            "install 'hydragrad[annotators]'."
        ) from error
    judged: dict[str, pd.DataFrame] = get_label_quality_multiannotator(given, probabilities, verbose=False)
    return judged


def _frames(
    judged: dict[str, pd.DataFrame],
    given: NDArray[np.float64],
    samples: NDArray[np.int64],
    columns: NDArray[np.int64],
    names: list[Any],
) -> Annotations:
    of_samples, of_labels, of_annotators = (
        judged[name] for name in ("label_quality", "detailed_label_quality", "annotator_stats")
    )
    consensus = of_samples["consensus_label"].to_numpy(np.int64)
    rows, places = np.nonzero(~np.isnan(given[np.ix_(samples, columns)]))
    labels = pd.DataFrame(
        {
            "sample": samples[rows],
            "annotator": [names[columns[place]] for place in places],
            "given_label": given[samples[rows], columns[places]].astype(np.int64),
            "suggested_label": consensus[rows],
            "quality": of_labels.to_numpy(np.float64)[rows, places],
        }
    )
    annotators = pd.DataFrame(
        {
            "annotator": [names[columns[place]] for place in of_annotators.index],
            "quality": of_annotators["annotator_quality"].to_numpy(),
            "agreement": of_annotators["agreement_with_consensus"].to_numpy(),
            "labels": of_annotators["num_examples_labeled"].to_numpy(),
            "worst_class": of_annotators["worst_class"].to_numpy(),
        }
    )
    every = pd.DataFrame(
        {
            "sample": samples,
            "consensus_label": consensus,
            "quality": of_samples["consensus_quality_score"].to_numpy(),
            "agreement": of_samples["annotator_agreement"].to_numpy(),
            "labels": of_samples["num_annotations"].to_numpy(),
        }
    )
    return Annotations(
        labels.sort_values("quality", kind="stable", ignore_index=True),
        annotators.sort_values("quality", kind="stable", ignore_index=True),
        every,
    )
