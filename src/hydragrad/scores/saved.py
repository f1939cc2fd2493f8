"""What the files of scores in a folder say, without reading their tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydragrad.disk import read_metadata
from hydragrad.scores.evidence import Evidence
from hydragrad.scores.scores import described


@dataclass(frozen=True, kw_only=True)
class SavedScores:
    """A file of scores.

    Attributes:
        path: The file, for `Scores.load`.
        query_names, evidence, query_samples, about: As in `Scores`.
    """

    path: Path
    query_names: tuple[str, ...]
    evidence: Evidence
    query_samples: tuple[int, ...] | None
    about: Mapping[str, Any]


def saved_scores(folder: Path) -> list[SavedScores]:
    """The scores in a folder, by file name; files of anything else, unfinished or damaged ones are passed over."""
    saved = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            saved.append(SavedScores(path=path, **described(read_metadata(path))))
        except (OSError, KeyError, TypeError, ValueError):
            continue
    return saved
