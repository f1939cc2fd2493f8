"""Evidence: what is known so far about how far scores can be trusted."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from hydragrad.scores.checks import Check
from hydragrad.scores.method import Curvature, Method
from hydragrad.scores.notes import Note, NoteKind
from hydragrad.scores.solved import Solved

HYDRA = Method()
INFLUENCE = "influence"
"""The route of influence functions, which take no derivative of the run."""
TRACIN = "tracin"
"""The route of TracIn, which takes none either."""


@dataclass(frozen=True)
class Compared:
    """What derivatives were held to while they were computed.

    Attributes:
        what: What was compared with what.
        times: How often.
        gap: The largest relative difference; rounding where it passed.
    """

    what: str
    times: int
    gap: float


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """How scores were computed, and what was measured about them.

    Attributes:
        method: Curvature, damping, smoothing and replays.
        seeds: Independent runs that the scores are means over.
        route: How the directional derivatives were taken: hooks, jvp, samples, or sweep; influence for influence
            functions and tracin for TracIn, whose checkpoints and damping or rates are in the note of that kind.
        steps: Steps of the run that were differentiated; 0 for these two.
        completed: Whether the run had ended.
        replay_exact: Whether the replay was held to be equal to the bit: on the recording's machine, of one process.
        replay_drift: Largest relative L2 difference of replayed from recorded weights at a segment's end.
        run: Digest of the recorded run, with its average if that is asked about; empty where there are several runs,
            none, or an earlier version wrote the file.
        states: Digests of the checkpoints of a model trained elsewhere; none of a recorded run.
        notes: Anything a reader must know.
        checks: Predicted against actual changes, by whoever measured them.
        compared: What the derivatives were held to on the way, and how often.
        solved: How far the systems of influence functions were solved, one entry a checkpoint.
    """

    method: Method = HYDRA
    seeds: int = 1
    route: str = "sweep"
    steps: int = 0
    completed: bool = True
    replay_exact: bool = True
    replay_drift: float = 0.0
    run: str = ""
    states: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    checks: tuple[Check, ...] = ()
    compared: tuple[Compared, ...] = ()
    solved: tuple[Solved, ...] = ()

    @property
    def curvature(self) -> Curvature:
        """Curvature of the loss, which is none (dropped, as in HYDRA), hessian (exact) or ggn (Gauss-Newton)."""
        return self.method.curvature

    @property
    def damping(self) -> float:
        """What was added to the curvature, times the identity."""
        return self.method.damping

    @property
    def smoothing(self) -> float | None:
        """Smoothing of Adam-like optimizers in the derivative; None is 0.01 where it applies."""
        return self.method.smoothing

    @property
    def replays(self) -> int:
        """How many runs with some samples left out were averaged over; 0 means the run itself."""
        return len(self.method.replays)

    @property
    def from_checkpoints(self) -> bool:
        """Whether these are influence functions or TracIn, which use checkpoints and no derivative of the run."""
        return self.route in (INFLUENCE, TRACIN)

    @property
    def trained_elsewhere(self) -> bool:
        """Whether these are about checkpoints of a model whose training was not recorded."""
        return bool(self.states)

    @property
    def about_candidates(self) -> bool:
        """Whether these are about samples that were not trained on."""
        return any(note.kind == "candidates" for note in self.notes)

    @property
    def about_itself(self) -> bool:
        """Whether these are self-influence: of each sample on its own loss."""
        return any(note.kind == "self-influence" for note in self.notes)

    @property
    def relative(self) -> bool:
        """Whether these were divided by self-influence: a ranking without a unit."""
        return any(note.kind == "relative" for note in self.notes)

    @property
    def scale_is_measured(self) -> bool:
        """Whether predicted changes may be read as such. Always with curvature; without it, once checked.

        Never of relative scores, which are no changes.
        """
        return not self.relative and (self.curvature != "none" or bool(self.checks))

    def with_note(self, note: Note) -> Self:
        """A copy with a note, in place of earlier ones of its kind."""
        return replace(self, notes=(*(other for other in self.notes if other.kind != note.kind), note))

    def without_notes(self, *kinds: NoteKind) -> Self:
        """A copy without notes of these kinds."""
        return replace(self, notes=tuple(note for note in self.notes if note.kind not in kinds))

    def with_checks(self, checks: Sequence[Check]) -> Self:
        """A copy with checks, in place of earlier ones of the same query, kind and size."""
        others = [old for old in self.checks if not any(new.replaces(old) for new in checks)]
        return replace(self, checks=(*others, *checks))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Undo `to_dict`; entries of later versions are passed over.

        Earlier versions had the method's entries among the others, notes as strings, and checks of another form.
        """
        known = {entry.name for entry in fields(cls)}
        options = values.get("method", values)
        method = Method.of(**{entry.name: options[entry.name] for entry in fields(Method) if entry.name in options})
        return cls(
            **{name: value for name, value in values.items() if name in known}
            | {
                "method": method,
                "states": tuple(values.get("states", ())),
                "notes": tuple(Note.read(note) for note in values.get("notes", ())),
                "checks": tuple(Check.read(check) for check in values.get("checks", ())),
                "compared": tuple(Compared(**entry) for entry in values.get("compared", ())),
                "solved": tuple(Solved(**entry) for entry in values.get("solved", ())),
            }
        )
