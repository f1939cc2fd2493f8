"""Which columns of a row follow which optimizer history."""

from collections.abc import Sequence

from hydragrad.derivatives import Layout, Projector


class Columns:
    """The columns of hypergradient rows: all parameters, one after the other, or random projections of groups of them.

    Args:
        layout: Lays out the tracked parameters.
        projector: Projects them, group by group.
    """

    def __init__(self, layout: Layout, projector: Projector | None = None) -> None:
        self._layout, self._projector = layout, projector

    @property
    def width(self) -> int:
        """How many there are."""
        return self._layout.size if self._projector is None else self._projector.width

    @property
    def projected(self) -> bool:
        """Whether columns mix the parameters of a group."""
        return self._projector is not None

    def spans(self, histories: Sequence[Sequence[str]]) -> list[list[slice]]:
        """The columns of every history, as few slices as possible; projected ones must be the projector's groups."""
        if self._projector is not None:
            return [[span] for span in self._projector.spans]
        return [_merged([self._layout.spans[name] for name in names]) for names in histories]


def _merged(spans: Sequence[slice]) -> list[slice]:
    merged: list[slice] = []
    for span in sorted(spans, key=lambda columns: columns.start):
        if merged and merged[-1].stop == span.start:
            merged[-1] = slice(merged[-1].start, span.stop)
        else:
            merged.append(span)
    return merged
