"""Scores and the checkpoints or run that they are about: held to each other before anything is made of both."""

from typing import Any

from hydragrad.errors import QueryError
from hydragrad.scores import Scores
from hydragrad.trained_elsewhere.opened import Checkpoints


def require_scores_about(run: Any, scores: Scores) -> None:
    """Refuse scores of other weights than those that were opened, or of samples that were not trained on.

    Args:
        run: A recorded run, or checkpoints.
        scores: Scores that carry the digests of their checkpoints.

    Raises:
        QueryError: They are about something else.
    """
    if scores.evidence.about_candidates:
        raise QueryError(
            "The scores are about candidates, which were not trained on; training samples are expected here. Compute "
            "them without candidates=."
        )
    if scores.evidence.about_itself or scores.evidence.relative:
        raise QueryError(
            "The scores are self-influence, or relative to it; contributions to queries are expected here. Give the "
            "scores of hg.attribute or hg.influence themselves."
        )
    states = scores.evidence.states
    if not isinstance(run, Checkpoints):
        if states:
            raise QueryError(
                "The scores are about checkpoints of a model trained elsewhere, not about this run. Give the "
                "hg.Checkpoints that they were computed from."
            )
        if scores.evidence.run and scores.evidence.run != run.digest:
            raise QueryError(
                f"The scores are about another run than {run.path}, about an average of its weights, or about as far "
                f"as it had come then. Give the run that they were computed from, or compute them again."
            )
    elif not states:
        raise QueryError(
            "The scores are about a recorded run, not about these checkpoints. Compute them from these: "
            "hg.influence(checkpoints, query)."
        )
    elif not set(states) <= set(run.digests):
        raise QueryError(
            "The scores are about other checkpoints than these. Open those that they were computed from, or compute "
            "them again: hg.influence(checkpoints, query)."
        )
