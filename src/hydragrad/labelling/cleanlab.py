"""cleanlab: suspects as an issue type of its Datalab, and its own findings as a ranking of suspects.

    from hydragrad.labelling.cleanlab import SuspectIssueManager  # registers itself

    lab = Datalab(data, label_name="label")
    lab.find_issues(issue_types={"hydragrad": {"suspects": suspects}})

`hg.import_labels(run, lab.get_issues("label"))` takes cleanlab's predicted labels for its issues.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from hydragrad.cleaning import estimated_share, suspected
from hydragrad.errors import DataError
from hydragrad.integrations.needed import need
from hydragrad.labelling.label_names import LabelNames

need("cleanlab", "cleanlab", room="labelling")

from cleanlab.datalab.internal.issue_manager import IssueManager  # noqa: E402
from cleanlab.datalab.internal.issue_manager_factory import register  # noqa: E402

QUALITIES = ("label_score", "label_quality")
"""What Datalab and CleanLearning call the quality of a label; low is bad."""


@register
class SuspectIssueManager(IssueManager):  # type: ignore[misc]
    """Issue type "hydragrad" of a Datalab whose examples are the training samples, in their order.

    `is_hydragrad_issue`: another label is suggested. `hydragrad_score`: 0 for the most suspect sample, rising to 1 for
    the least; only its order has a meaning. `hydragrad_suggestion`: the suggested label, where there are such.

    Args:
        datalab: The Datalab; it passes itself.
        suspects: What hg.suspects returned, of all training samples.
        classes: Name of each label, where the Datalab's labels are names.

    Raises:
        DataError: Suspects of other samples than the Datalab's, or with other labels.
    """

    description: ClassVar[str] = (
        "Samples that made the model worse on held-out data, or whose label training contradicts, as hydragrad "
        "measured it on the run itself."
    )
    issue_name: ClassVar[str] = "hydragrad"
    verbosity_levels: ClassVar[dict[int, list[str]]] = {0: [], 1: [], 2: ["estimated_share"], 3: []}

    def __init__(
        self, datalab: Any, suspects: pd.DataFrame, classes: Sequence[str] | None = None, **_others: Any
    ) -> None:
        super().__init__(datalab)
        if datalab is not None:
            _require_examples(datalab, suspects, classes)
        self._suspects, self._classes = suspects, classes

    def find_issues(self, **_kwargs: Any) -> None:
        """Set `issues`, one row an example, `summary` and `info`."""
        ranked = self._suspects
        issues = pd.DataFrame(
            {
                "is_hydragrad_issue": suspected(ranked).to_numpy(),
                "hydragrad_score": np.linspace(0, 1, len(ranked)),
            },
            index=ranked["sample"].to_numpy(),
        )
        if "suggested_label" in ranked:
            names = [label if self._classes is None else self._classes[label] for label in ranked["suggested_label"]]
            issues["hydragrad_suggestion"] = names
        self.issues = issues.sort_index()
        self.summary = self.make_summary(score=1 - estimated_share(ranked))
        self.info = self.collect_info()

    def collect_info(self, *_args: Any, **_kwargs: Any) -> dict[str, Any]:
        """The share of wrong labels, estimated, and the samples from the most to the least suspect."""
        return {"estimated_share": estimated_share(self._suspects), "ranking": self._suspects["sample"].tolist()}


def _require_examples(datalab: Any, suspects: pd.DataFrame, classes: Sequence[str] | None) -> None:
    count = int(datalab.get_info("statistics")["num_examples"])
    if sorted(suspects["sample"].tolist()) != list(range(count)):
        raise DataError(
            f"Suspects of a Datalab must be its {count:,} examples, numbered from 0 in their order, each once; got "
            f"{len(suspects):,}. Make the Datalab of the training set, and score all of its samples."
        )
    if not datalab.has_labels:
        return
    theirs = np.asarray(datalab.class_names, dtype=object)[np.asarray(datalab.labels)]
    for sample, given in zip(suspects["sample"].tolist(), suspects["given_label"].tolist(), strict=True):
        label, name = theirs[sample], given if classes is None else classes[given]
        if label != name:
            hint = " Pass their names: classes=[...]." if isinstance(label, str) and classes is None else ""
            raise DataError(
                f"The Datalab's example {sample} carries label {label!r}; the suspects say {name!r}. Make the Datalab "
                f"of the training set that the run was trained on.{hint}"
            )


def in_order_of(
    suspects: pd.DataFrame, issues: pd.DataFrame | ArrayLike, *, classes: Sequence[str] | None = None
) -> pd.DataFrame:
    """Rank suspects by what cleanlab found, for `hg.report` and `hg.export_suspects`.

    Args:
        suspects: What hg.suspects returned.
        issues: `Datalab.get_issues("label")` or `CleanLearning.find_label_issues()`: by the label's quality, with the
            predicted label as the suggested one. Or what `cleanlab.filter.find_label_issues` returns, ranked indices
            or a mask: these samples come first, in their order, or, of a mask, in that of the suspects.
        classes: Name of each label, where cleanlab's labels are names.

    Returns:
        The suspects in this order, with `suspicion` falling from 1 to 0.

    Raises:
        DataError: No such result, or of other samples.
    """
    own = suspects.set_index("sample", drop=False)
    if isinstance(issues, pd.DataFrame):
        order, own = _by_quality(own, issues, classes)
    else:
        order = _first(own.index.tolist(), np.asarray(issues))
    ranked = own.loc[order].reset_index(drop=True)
    return ranked.assign(suspicion=np.linspace(1, 0, len(ranked)))


def _by_quality(
    own: pd.DataFrame, issues: pd.DataFrame, classes: Sequence[str] | None
) -> tuple[list[int], pd.DataFrame]:
    quality = next((name for name in QUALITIES if name in issues), None)
    if quality is None or "predicted_label" not in issues or not own.index.isin(issues.index).all():
        raise DataError(
            f"Issues need the columns {' or '.join(QUALITIES)} and predicted_label, and a row for each of the "
            f"{len(own):,} suspects; got {', '.join(map(str, issues.columns))} of {len(issues):,} samples. Pass what "
            f"Datalab.get_issues('label') returned."
        )
    issues = issues.loc[own.index]
    names = LabelNames(set(own["given_label"]), classes)
    predicted = [names.number(label) for label in issues["predicted_label"]]
    if not all(isinstance(label, int) for label in predicted):
        raise DataError(f"Issues must predict labels by number, or by the names in classes=; got {predicted[0]!r}.")
    order = issues[quality].sort_values(kind="stable").index.tolist()
    return order, own.assign(suggested_label=predicted)


def _first(ranking: list[int], found: np.ndarray[Any, Any]) -> list[int]:
    if found.dtype == bool and len(found) > max(ranking):
        first = [sample for sample in ranking if found[sample]]
    elif found.dtype.kind in "iu" and set(found.tolist()) <= set(ranking) and len(set(found.tolist())) == len(found):
        first = found.tolist()
    else:
        raise DataError(
            f"find_label_issues returns a mask of all samples or ranked indices; got {found.dtype} of shape "
            f"{found.shape}. Pass it as it is, for the samples that were ranked."
        )
    chosen = set(first)
    return [*first, *(sample for sample in ranking if sample not in chosen)]
