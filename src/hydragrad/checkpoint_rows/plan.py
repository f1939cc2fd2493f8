"""What a folder of rows is to hold, as its file says it; the folder is finished once it has the second file, too.

plan.json           what it is to hold
checkpoint-000/ ... one store a checkpoint, and solved.json: how near the approximate inverse is there
rows.json           the same as plan.json, and the evidence
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from hydragrad.errors import RecordingMismatch, RunDamaged, RunExists, RunNotFound
from hydragrad.scores import Evidence, Solved
from hydragrad.tracking.facts import opened_seal, write_sealed

SCHEMA = 1
PLAN, ROWS, SOLVED = "plan.json", "rows.json", "solved.json"
RowsMethod = Literal["nystrom", "ekfac", "tracin"]


@dataclass(frozen=True, kw_only=True)
class RowsPlan:
    """What rows are to be made.

    Attributes:
        method: How a gradient becomes a row.
        checkpoints: What each checkpoint is called.
        weights: Digest of each one's parameters and buffers.
        factors: What each one's rows are multiplied with: shares of an average, or rates.
        damping: As it was named.
        data: Length and digest of the training set.
        samples: CRC-32 of the samples' ids.
        dtype: Number format of the rows.
        projection: Dimensions and seed, or None.
    """

    method: RowsMethod
    checkpoints: tuple[str, ...]
    weights: tuple[str, ...]
    factors: tuple[float, ...]
    damping: float | None
    data: dict[str, Any]
    samples: int
    dtype: str
    projection: dict[str, int] | None
    schema: int = SCHEMA

    def folder(self, root: Path, number: int) -> Path:
        """Where the store of a checkpoint lies."""
        return root / f"checkpoint-{number:03d}"

    def require_new(self, root: Path) -> None:
        """Refuse a folder of something else.

        Raises:
            RunExists: The folder is finished.
            RecordingMismatch: It is to hold something else.
        """
        if (root / ROWS).exists():
            raise RunExists(
                f"{root} holds finished rows. Open them, hg.InfluenceStore.open(path, model, loss), or choose another "
                f"folder."
            )
        if not (root / PLAN).exists():
            return
        theirs, _ = RowsPlan.read(root / PLAN)
        different = [entry.name for entry in fields(self) if getattr(self, entry.name) != getattr(theirs, entry.name)]
        if different:
            raise RecordingMismatch(
                f"{root} holds unfinished rows that differ in: {', '.join(different)}. Choose another folder, delete "
                f"it, or give the same options."
            )

    def begin(self, root: Path) -> None:
        """Write the plan."""
        if not (root / PLAN).exists():
            write_sealed(root / PLAN, asdict(self))

    def finish(self, root: Path, evidence: Evidence) -> None:
        """Write the last file."""
        write_sealed(root / ROWS, asdict(self) | {"evidence": evidence.to_dict()})

    @classmethod
    def read(cls, file: Path) -> tuple[Self, Evidence | None]:
        """Read a plan, and the evidence where it is finished.

        Raises:
            RunNotFound: There is none, or it is unfinished.
            RunDamaged: The file is altered.
            RecordingMismatch: It was written by another version.
        """
        if not file.exists():
            unfinished = (file.parent / PLAN).exists()
            what = "rows that are unfinished; call hg.influence_rows with the same options" if unfinished else "no rows"
            raise RunNotFound(f"{file.parent} holds {what}. Make them: hg.influence_rows(checkpoints, store=...).")
        body = read_sealed(file)
        evidence = body.pop("evidence", None)
        if body.get("schema") != SCHEMA or set(body) != {entry.name for entry in fields(cls)}:
            raise RecordingMismatch(f"{file} was written by another version. Make the rows again.")
        lists = {name: tuple(body[name]) for name in ("checkpoints", "weights", "factors")}
        return cls(**{**body, **lists}), None if evidence is None else Evidence.from_dict(evidence)


def read_sealed(file: Path) -> dict[str, Any]:
    """The entries of a sealed file.

    Raises:
        RunDamaged: It is altered.
    """
    try:
        body = dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise RunDamaged(f"{file} can't be read ({error}). Make the rows again.") from error
    return opened_seal(file, body)


def write_solved(folder: Path, solved: Solved | None) -> None:
    """Write how near the inverse of a checkpoint is."""
    write_sealed(folder / SOLVED, {"solved": None if solved is None else asdict(solved)})


def read_solved(folder: Path) -> Solved | None:
    """What `write_solved` wrote."""
    solved = read_sealed(folder / SOLVED)["solved"]
    return None if solved is None else Solved(**solved)
