"""`report`: scores as one HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch.utils.data import Dataset

from hydragrad.cleaning import Cleaning, Reweighting
from hydragrad.disk import make_folder
from hydragrad.errors import PresentationError, QueryError, Unsupported
from hydragrad.replay import Recording, samples_in
from hydragrad.reports.content import read_content
from hydragrad.reports.explaining import EXPLAINED, Explanations, explained_samples, from_scores, from_store
from hydragrad.reports.gallery import Gallery
from hydragrad.reports.grouped import require_groups
from hydragrad.reports.listing import listing
from hydragrad.reports.page import page
from hydragrad.reports.pairs import require_pairs, require_test_set
from hydragrad.reports.rendering import Render
from hydragrad.reports.tokenized import Texts, texts_by
from hydragrad.reports.tokens import Pieces
from hydragrad.runs.lines import replace_file
from hydragrad.scores import Check, Scores, amounts_of
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.tracking import Store
from hydragrad.trained_elsewhere import Checkpoints, require_scores_about

HOW_TO_EXPLAIN = (
    "To see which training samples moved a prediction, give the report a store of hypergradients and the test samples: "
    "hg.report(run, scores, path, explain=hg.hypergradients(run, projection=2048), test_set=test_set)."
)

EXPLAIN_ELSEWHERE = (
    "To see which training samples moved a prediction, give the report scores of single test samples: "
    "hg.report(checkpoints, scores, path, explain=hg.influence(checkpoints, hg.sample_losses(test_set, [0, 1, 2])))."
)


@in_clean_surroundings
def report(
    run: Recording | Checkpoints,
    scores: Scores,
    path: str | Path,
    *,
    query: str | int | None = None,
    suspects: pd.DataFrame | None = None,
    groups: pd.DataFrame | None = None,
    duplicates: pd.DataFrame | None = None,
    leaks: pd.DataFrame | None = None,
    explain: Store | Scores | None = None,
    test_set: Dataset[Any] | None = None,
    render: Render | None = None,
    columns: Sequence[str] | None = None,
    pieces: Pieces | None = None,
    tokenizer: Any = None,
    classes: Sequence[str] | None = None,
    accuracies: Mapping[str, float] | None = None,
    cleaning: Cleaning | Reweighting | None = None,
    checks: Sequence[Check | Mapping[str, Any]] = (),
    removals: Scores | None = None,
    title: str | None = None,
    thumbnails: int = 2000,
    explained: int = EXPLAINED,
    how_to_explain: str | None = None,
) -> Path:
    """Write one HTML file that needs no network, and is the same for the same input.

    Args:
        run: The run that the scores are about, or the checkpoints of a model trained elsewhere.
        scores: Contributions (positive helps, unit of the query).
        path: File to write; its folder is made, an older file replaced.
        query: Which query of the scores; the first if None.
        suspects: What hg.suspects returned, most suspect first: columns sample, given_label, contribution,
            and optionally suggested_label, true_label, flipped. If None, samples are ranked by contribution. Of targets
            that are more than one class (values, several labels, positions) what is given and suggested is shown, and
            of positions where.
        groups: What hg.suspect_groups returned for these suspects; each can be marked as a whole.
        duplicates: What hg.near_duplicates(run) returned: pairs inside the training set.
        leaks: What hg.near_duplicates(run, test_set) returned: training samples in the test set; with `test_set`.
        explain: A store (with `test_set`) or contributions to losses of single test samples: which training samples
            moved which predictions. If None, the scores' own queries where they are such losses.
        test_set: The samples whose predictions are explained, and in which training samples were found.
        render: `render(item)` shows what the data set returns for an index: a PIL image, a uint8 array (height,
            width) or (height, width, 3), a text, a mapping of names to values, or None. Without it images, texts and
            rows of numbers are shown for what they are.
        columns: Names of the numbers in a row of tabular data.
        pieces: `pieces(item)` returns the text of every part of a training item (of its tokens, as a tokenizer's
            `decode` gives it), "" where there is nothing to show. Where the scores have `part_contributions`, the
            listed samples are shown with their parts coloured by contribution.
        tokenizer: An object with `decode(tokens)`, such as a Hugging Face tokenizer, or a function that does the same:
            shows sequences of tokens as texts, and their parts as tokens, in place of `render` and `pieces`. Where the
            tokens stand in a batch is found.
        classes: Name of each label.
        accuracies: Name ("labels as given", "cleaned", ...) to accuracy, a fraction.
        cleaning: What hg.clean or hg.reweigh returned: its sentence leads the page; without `accuracies` its own are
            shown.
        checks: Further checks, or mappings with name, predicted and actual changes, each a number or (n,), and unit.
            The checks in the scores' evidence are shown as well.
        removals: Scores of the same query whose scale was measured by really leaving groups out (hg.verify): the page
            then predicts, with an interval, what leaving out the most suspect or the marked samples does. If None, the
            scores themselves where they carry such a measurement.
        title: Heading of the page.
        thumbnails: So many suspects are shown as pictures, texts or values; of the others only the numbers.
        explained: So many test samples are explained, misclassified ones first, where `explain` is a store.
        how_to_explain: What the page says where there is nothing to explain predictions by; a hint if None.

    Returns:
        The file.

    Raises:
        QueryError: An unknown query, scores of other samples than the run's, of other checkpoints or of candidates, or
            a store or leaks without `test_set`.
        Unsupported: A store for checkpoints of a model trained elsewhere.
        PresentationError: Suspects, groups, pairs, labels, accuracies, samples or checks that can't be shown.

    Cost: one forward pass of the training set; with a store also one of the test set, and `explained` gradients.
    """
    if thumbnails < 0 or explained < 1:
        raise PresentationError(
            f"thumbnails must not be negative and explained at least 1, got {thumbnails} and {explained}."
        )
    _require_fractions(accuracies or {})
    require_scores_about(run, scores)
    length = samples_in(run)
    if removals is not None:
        require_scores_about(run, removals)
        _require_measured(removals, scores, query)
    last = int(scores.sample_ids.max())
    if last >= length:
        raise QueryError(
            f"The scores are about samples up to {last:,}; the run was trained on samples 0 to "
            f"{length - 1:,}. Give the run that the scores were computed from."
        )
    row = 0 if query is None else query
    scores.row(row)  # refuses an unknown one before the work begins
    lead = None
    if tokenizer is not None:
        texts = texts_by(run, tokenizer)
        lead = texts.lead if pieces is None else None
        render, pieces = render or texts.text, pieces or _pieces(texts, scores)
    listed = listing(run, scores, row, suspects)
    if duplicates is not None:
        require_pairs(duplicates, "duplicates", run, None)
    if leaks is not None:
        require_pairs(leaks, "leaks", run, require_test_set(test_set))
    content = read_content(
        run,
        scores,
        listed,
        groups=None if groups is None else require_groups(groups, listed),
        duplicates=duplicates,
        leaks=None if leaks is None else (leaks, require_test_set(test_set)),
        query=row,
        gallery=Gallery(render, columns),
        pieces=pieces,
        lead=lead,
        classes=classes,
        accuracies=_accuracies(cleaning) if accuracies is None and cleaning is not None else accuracies or {},
        cleaned=None if cleaning is None else cleaning.sentence,
        checks=checks,
        explanations=_explanations(run, scores, explain, test_set, explained),
        how_to_explain=how_to_explain or (EXPLAIN_ELSEWHERE if isinstance(run, Checkpoints) else HOW_TO_EXPLAIN),
        title=title,
        thumbnails=thumbnails,
        removals=removals or scores,
    )
    file = Path(path)
    html = page(content)
    make_folder(file.parent)

    def write(to: Path) -> None:
        to.write_text(html, encoding="utf-8", newline="\n")

    replace_file(file, write)
    return file


def _pieces(texts: Texts, scores: Scores) -> Pieces | None:
    """How the parts of an item are shown; nothing where there is one part only, or none."""
    parts = scores.part_contributions
    if texts.pieces is None and parts is not None and parts.shape[-1] > 1:
        raise PresentationError(
            f"Which tokens the parts of the loss are was not found ({texts.why_no_pieces}). Say it: "
            f"pieces=lambda item: [the text of every part]."
        )
    return texts.pieces


def _require_measured(removals: Scores, scores: Scores, query: str | int | None) -> None:
    name = scores.query_names[scores.position(0 if query is None else query)]
    if name not in removals.query_names or amounts_of(removals, name).calibration is None:
        raise QueryError(
            f"removals= takes scores of {name!r} whose scale was measured by leaving five groups out or more, and is "
            f"clearly above zero: scores.with_evidence(hg.verify(run, scores)). These have none; leave removals= out."
        )


def _explanations(
    run: Recording | Checkpoints,
    scores: Scores,
    explain: Store | Scores | None,
    test_set: Dataset[Any] | None,
    count: int,
) -> Explanations | None:
    if isinstance(explain, Store):
        if test_set is None:
            raise QueryError("A store explains the predictions of test samples. Pass them: test_set=...")
        if isinstance(run, Checkpoints):
            raise Unsupported(
                "A store's rows are those of a recorded run; these are checkpoints of a model trained elsewhere. "
                "Explain predictions by scores: explain=hg.influence(checkpoints, hg.sample_losses(test_set, [...]))."
            )
        return from_store(run, explain, test_set, count=count)
    if explain is not None:
        require_scores_about(run, explain)
    if explain is None and explained_samples(scores) is None:
        return None
    return from_scores(run, explain or scores, test_set)


def _accuracies(cleaning: Cleaning | Reweighting) -> dict[str, float]:
    """Of the held-out data that chose."""
    known = [(one.remedy.name, one.accuracy) for one in cleaning.outcomes]
    return {name: accuracy for name, accuracy in known if accuracy is not None}


def _require_fractions(accuracies: Mapping[str, float]) -> None:
    wrong = {name: value for name, value in accuracies.items() if not 0 <= value <= 1}
    if wrong:
        name, value = next(iter(wrong.items()))
        raise PresentationError(f"Accuracies are fractions between 0 and 1; {name!r} is {value}.")
