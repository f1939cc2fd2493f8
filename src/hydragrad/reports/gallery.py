"""The samples that are shown with picture, text or values; of all others the page knows the numbers only."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch.utils.data import Dataset

from hydragrad.randomness import preserved, reseed_everything
from hydragrad.reports.packing import packed
from hydragrad.reports.rendering import Render, Rendered, rendered
from hydragrad.reports.sheets import Picture, sheets


class Gallery:
    """Renders samples of some data sets, each once.

    Args:
        render: The user's own way to show an item.
        columns: Names of the numbers in a row.
    """

    def __init__(self, render: Render | None, columns: Sequence[str] | None) -> None:
        self._render, self._columns = render, columns
        self._pictures: list[Picture] = []
        self._names: list[str] = []

    def shown(self, dataset: Dataset[Any], samples: Iterable[int]) -> dict[str, Any]:
        """Render samples of a data set.

        Returns:
            Their `ids`, and in the same order places of `pictures` (-1 for none), `texts` and `rows`; each of the
            three only where some sample has one.
        """
        ids = list(dict.fromkeys(samples))
        views = [self._view(dataset, sample) for sample in ids]
        result: dict[str, Any] = {"ids": packed(ids, "u4")}
        if any(not isinstance(view, str | dict | None) for view in views):
            result["pictures"] = packed([self._place(view) for view in views], "i4")
        if any(isinstance(view, str) for view in views):
            result["texts"] = [view if isinstance(view, str) else None for view in views]
        if any(isinstance(view, dict) for view in views):
            result["rows"] = [self._row(view) if isinstance(view, dict) else None for view in views]
        return result

    def packed(self) -> dict[str, Any]:
        """All pictures as sheets, and the names of the rows' values."""
        return {"sheets": sheets(self._pictures), "columns": self._names}

    def _view(self, dataset: Dataset[Any], sample: int) -> Rendered:
        with preserved():
            reseed_everything(0)  # a data set that augments shows the same picture every time
            return rendered(dataset[sample], self._render, self._columns)

    def _place(self, view: Rendered) -> int:
        if isinstance(view, str | dict | None):
            return -1
        self._pictures.append(view)
        return len(self._pictures) - 1

    def _row(self, row: dict[str, str]) -> list[list[int | str]]:
        """Names by their number, since they repeat from row to row."""
        known = {name: place for place, name in enumerate(self._names)}
        for name in row:
            if name not in known:
                known[name] = len(self._names)
                self._names.append(name)
        return [[known[name], value] for name, value in row.items()]
