"""How far the systems behind influence functions were solved: typed evidence, one entry a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hydragrad.scores.notes import Note


@dataclass(frozen=True, kw_only=True)
class Solved:
    """Solutions with the damped Gauss-Newton matrix of one checkpoint.

    Attributes:
        at: Which checkpoint.
        damping: What was added to the matrix, times the identity.
        share: The damping as a share of the matrix's largest eigenvalue, by power iterations; None where it was named.
        preconditioner: nystrom, ekfac, or none.
        iterations: Of conjugate gradients, the most that a right-hand side took; 0 where the preconditioner alone is
            the answer.
        tolerance: The relative residual that they were to reach.
        residual: The largest relative residual that they left.
    """

    at: str
    damping: float
    share: float | None = None
    preconditioner: Literal["nystrom", "ekfac", "none"] = "none"
    iterations: int
    tolerance: float
    residual: float

    @property
    def converged(self) -> bool:
        """Whether the residual is as small as it was to be."""
        return self.residual <= self.tolerance


def not_converged(every: Sequence[Solved]) -> Note | None:
    """What a reader must know where solutions are unfinished, with the remedy; None where none is."""
    late = [one for one in every if not one.converged]
    if not late:
        return None
    worst = max(late, key=lambda one: one.residual)
    where = f"at {len(late)} of {len(every)} checkpoints" if len(every) > 1 else "at the checkpoint"
    if not worst.iterations:
        text = (
            f"An approximate inverse ({worst.preconditioner}) alone: {where} it leaves up to {worst.residual:.1g} of a "
            f"right-hand side. "
            f"For the exact matrix let conjugate gradients follow: iterations=20."
        )
    else:
        text = (
            f"Conjugate gradients did not converge {where}: they left up to {worst.residual:.1g} of a right-hand side, "
            f"{worst.tolerance:.1g} was meant. Give iterations={2 * worst.iterations} or more, or a damping above "
            f"{worst.damping:.3g}."
        )
        if worst.preconditioner == "none":
            text = text.removesuffix(".") + ", or preconditioner='nystrom'."
    return Note("convergence", text)
