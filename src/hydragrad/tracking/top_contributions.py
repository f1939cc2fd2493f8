"""The samples that matter most to each query, found without the whole matrix of contributions."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TopContributions:
    """The samples that matter most to each query; contributions as in Scores: positive helps, unit of the query.

    Attributes:
        query_names: One name a query.
        query_values: phi of the trained model, float64, (queries,).
        helpful_ids: Most helpful training samples, the best first, (queries, k).
        helpful: Their contributions, (queries, k).
        harmful_ids: Most harmful training samples, the worst first, (queries, k).
        harmful: Their contributions, (queries, k).
        helpful_noise: Standard errors of `helpful` by the rows' projection, (queries, k); None of whole rows.
        harmful_noise: The same of `harmful`.
    """

    query_names: tuple[str, ...]
    query_values: Tensor
    helpful_ids: Tensor
    helpful: Tensor
    harmful_ids: Tensor
    harmful: Tensor
    helpful_noise: Tensor | None = None
    harmful_noise: Tensor | None = None

    def to_frame(self) -> pd.DataFrame:
        """One row a query and sample: query, sample, contribution; the most helpful first."""
        ids = torch.cat([self.helpful_ids, self.harmful_ids.flip(1)], 1)
        values = torch.cat([self.helpful, self.harmful.flip(1)], 1)
        names = np.repeat(np.array(self.query_names, dtype=object), ids.shape[1])
        frame = pd.DataFrame({"query": names, "sample": ids.flatten().numpy(), "contribution": values.flatten()})
        return frame.drop_duplicates(["query", "sample"], ignore_index=True)


class Extremes:
    """The k largest and the k smallest of a stream of columns."""

    def __init__(self, top: int) -> None:
        self._top, self._seen = top, 0
        self._best: list[tuple[Tensor, Tensor] | None] = [None, None]

    def add(self, product: Tensor) -> None:
        """Take in the next columns, (queries, columns)."""
        places = torch.arange(self._seen, self._seen + product.shape[1]).expand_as(product)
        self._seen += product.shape[1]
        for side, largest in enumerate((True, False)):
            values, at, before = product, places, self._best[side]
            if before is not None:
                values, at = torch.cat([before[0], values], 1), torch.cat([before[1], at], 1)
            best, columns = values.topk(min(self._top, values.shape[1]), largest=largest)
            self._best[side] = best, at.gather(1, columns)

    def values_and_places(self) -> tuple[Tensor, Tensor]:
        """Values and places: the largest, then the smallest."""
        sides = [side for side in self._best if side is not None]
        return torch.cat([values for values, _ in sides], 1), torch.cat([places for _, places in sides], 1)
