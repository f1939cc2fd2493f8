"""Evidence: what is known so far about how far scores can be trusted."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

Curvature = Literal["none", "hessian", "ggn"]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """How scores were computed, and what was measured about them.

    Attributes:
        curvature: none (HYDRA: the curvature of the loss is dropped), hessian (exact), ggn (Gauss-Newton).
        damping: Added to the curvature, times the identity.
        replays: Runs with some samples left out that were averaged over; 0 means the run itself.
        seeds: Independent runs that the scores are means over.
        route: How the directional derivatives were taken: hooks, jvp, or sweep.
        steps: Steps of the run that were differentiated.
        completed: Whether the run had ended.
        replay_exact: Whether the replay was held to be equal to the bit.
        replay_drift: Largest relative L2 difference of replayed from recorded weights at a segment's end.
        notes: Anything a reader must know, a sentence each.
        checks: Predicted against actual changes, by whoever measured them.
    """

    curvature: Curvature
    damping: float = 0.0
    replays: int = 0
    seeds: int = 1
    route: str = "sweep"
    steps: int = 0
    completed: bool = True
    replay_exact: bool = True
    replay_drift: float = 0.0
    notes: tuple[str, ...] = ()
    checks: tuple[dict[str, Any], ...] = ()

    @property
    def scale_is_measured(self) -> bool:
        """Whether predicted changes may be read as such. Always with curvature; without it, once checked."""
        return self.curvature != "none" or bool(self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Undo `to_dict`; entries of later versions are passed over."""
        known = {entry.name for entry in fields(cls)}
        kept = {name: value for name, value in values.items() if name in known}
        return cls(**kept | {name: tuple(kept.get(name, ())) for name in ("notes", "checks")})
