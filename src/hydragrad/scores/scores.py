"""Scores: contributions of training samples to queries, with their evidence."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch
from torch import Tensor

from hydragrad.disk import load_sealed, save_sealed
from hydragrad.errors import QueryError, RunDamaged, RunNotFound
from hydragrad.scores.evidence import Evidence
from hydragrad.scores.queries import Query, single_samples_of
from hydragrad.scores.relative import EXTREMES, RELATIVE, SharedExtremes, divisors, overlap_of, same_samples

FILE = "file"
"""Entry of a file's metadata: the name that it was saved under."""
MEANING = "contribution (positive helps; unit of the query)"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Contributions of training samples to queries.

    The contribution of sample i to query phi is -d phi(final weights) / d alpha_i, with alpha_i the weight of the
    sample's loss in training (1 in the run): to first order, phi(trained without i) - phi. It has phi's unit. With
    phi a loss, positive means that the sample helps, negative that it harms. Contributions add up over groups.
    Without curvature the ranking may be good while the scale is wrong by orders of magnitude.

    Attributes:
        values: Contributions, float64, (queries, samples).
        sample_ids: Which training samples, int64, (samples,).
        query_names: One name a row.
        query_values: phi of the trained model, float64, (queries,).
        standard_errors: Of the values, float64 (queries, samples): where they are means over independent runs, by the
            spread of the runs; where they come from projected rows, by the projection. Else None.
        label_contributions: What each sample's contribution would be under every label, float64,
            (queries, samples, classes), or None.
        part_contributions: The contribution of every part of every sample (tokens, pixels, boxes, answers), float64,
            (queries, samples, most parts), or None. They add up to `values`; NaN where a sample has no such part.
        over_time: What each of equal stretches of the run's steps added to a contribution, float32,
            (queries, stretches, samples), or None. The stretches add up to `values`.
        evidence: How the scores were computed and what was measured about them.
        query_samples: Where every row is the run's loss of one sample, which sample of the query's data set; else None.
        about: Whatever the writer of a file wants to find again, as values that JSON holds.
        queries: The queries, in the order of the rows; None for scores that were loaded from a file.

    Source: Chen et al. 2021, section 3, with c_i = -(1/N) grad phi . hypergradient_i.
    """

    values: Tensor
    sample_ids: Tensor
    query_names: tuple[str, ...]
    query_values: Tensor
    evidence: Evidence
    standard_errors: Tensor | None = None
    label_contributions: Tensor | None = None
    part_contributions: Tensor | None = None
    over_time: Tensor | None = None
    query_samples: tuple[int, ...] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    queries: tuple[Query, ...] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.query_samples is None and self.queries is not None:
            _, samples = single_samples_of(self.queries) or (None, None)
            object.__setattr__(self, "query_samples", samples)
        evidence, same = self.evidence.without_notes("same samples"), None
        if not self.evidence.about_itself:
            same = same_samples(self.values, relative=self.evidence.relative)
        if same is not None:
            evidence = evidence.with_note(same)
        if evidence != self.evidence:
            object.__setattr__(self, "evidence", evidence)

    def with_evidence(self, evidence: Evidence) -> Self:
        """A copy that carries other evidence of the same scores.

        Raises:
            QueryError: It is that of another method or run.
        """
        own = self.evidence
        if evidence.method != own.method or (own.run and evidence.run and evidence.run != own.run):
            raise QueryError(
                f"This evidence is of other scores: {evidence.method.in_words} of "
                f"{'the same run' if evidence.run == own.run else 'another run'}, and these are "
                f"{own.method.in_words}. Give what hg.verify returned for these scores."
            )
        return replace(self, evidence=evidence)

    def most_harmful(self, k: int, query: str | int | None = None) -> list[int]:
        """The k training samples with the most negative contributions, the worst first.

        Args:
            k: How many; all if there are fewer.
            query: Name or row of the query; needed if there are several.

        Raises:
            QueryError: An unknown query, or none given where there are several.
        """
        return self._extreme(k, query, descending=False)

    def most_helpful(self, k: int, query: str | int | None = None) -> list[int]:
        """The k training samples with the most positive contributions, the best first.

        Args:
            k: How many; all if there are fewer.
            query: Name or row of the query; needed if there are several.

        Raises:
            QueryError: An unknown query, or none given where there are several.
        """
        return self._extreme(k, query, descending=True)

    def total(self, ids: Sequence[int]) -> Tensor:
        """Summed contributions of a group, float64, (queries,): its predicted effect, to first order.

        Args:
            ids: Training samples; one that is listed twice is one sample.

        Raises:
            QueryError: Ids that have no score; scores that do not add up, since they are relative or self-influence.
        """
        self.require_sums()
        column = {sample: at for at, sample in enumerate(self.sample_ids.tolist())}
        unknown = [i for i in ids if i not in column]
        if unknown:
            raise QueryError(
                f"Samples {unknown[:5]} have no score; these scores cover {len(column):,} of the training samples."
            )
        return self.values[:, [column[i] for i in dict.fromkeys(ids)]].sum(1)

    def require_sums(self) -> None:
        """Refuse scores that do not add up over samples.

        Raises:
            QueryError: They are relative, or self-influence.
        """
        if self.evidence.relative or self.evidence.about_itself:
            raise QueryError(
                "Relative scores and self-influence do not add up over samples. Take the scores of the queries "
                "themselves."
            )

    def relative_to(self, self_influence: "Scores") -> Self:
        """Divide by the root of self-influence: which samples matter to a query more than they matter at all.

        The most harmful and helpful samples of many queries are often the same few, with large gradients. This divides
        that out, and keeps the sign. Contributions under other labels are left out.

        Args:
            self_influence: What `hg.self_influence` measured of the same checkpoints or run, for all of these samples.
                With of="weights" the divisor is the length of the change of the weights (theta-relative), with
                of="loss" the root of the change of the sample's loss (l-relative), with method="tracin" the length of
                the gradient, as in a cosine.

        Returns:
            Scores for ranking: without the query's unit, and not to be added up.

        Raises:
            QueryError: Something else than self-influence, of other checkpoints or without some of the samples, or one
                of zero where there is a score; scores that are relative already.

        Source: Barshan, Brunet and Dziugaite, AISTATS 2020.
        """
        if not self_influence.evidence.about_itself:
            raise QueryError("relative_to takes what hg.self_influence returned, got scores of queries.")
        if self.evidence.relative or self.evidence.about_itself:
            raise QueryError("relative_to divides scores of queries, once; these are relative, or self-influence.")
        if self.evidence.about_candidates:
            raise QueryError(
                "These scores are about candidates, and self-influence is about training samples. Compute scores "
                "without candidates=."
            )
        if (
            self.evidence.states
            and self_influence.evidence.states
            and (self.evidence.states != self_influence.evidence.states)
        ):
            raise QueryError(
                "The scores and the self-influence are about different checkpoints. Compute both from the same ones, "
                "with the same checkpoints=."
            )
        root = divisors(self.values, self.sample_ids, self_influence.values[0], self_influence.sample_ids)
        return replace(
            self,
            values=self.values / root,
            standard_errors=None if self.standard_errors is None else self.standard_errors / root,
            label_contributions=None,
            part_contributions=None if self.part_contributions is None else self.part_contributions / root[:, None],
            over_time=None if self.over_time is None else self.over_time / root.to(self.over_time),
            evidence=replace(self.evidence.with_note(RELATIVE), checks=()),
        )

    def overlap(self, k: int = EXTREMES) -> SharedExtremes:
        """How far the k most harmful and the k most helpful samples of the queries are the same.

        Raises:
            QueryError: One query only, or a k that leaves nothing out.
        """
        return overlap_of(self.values, k)

    def row(self, query: str | int | None = None) -> Tensor:
        """Contributions to one query, (samples,).

        Raises:
            QueryError: An unknown query, or none given where there are several.
        """
        return self.values[self.position(query)]

    def standard_errors_of(self, query: str | int | None = None) -> Tensor | None:
        """Standard errors of the contributions to one query, (samples,), or None.

        Raises:
            QueryError: An unknown query, or none given where there are several.
        """
        position = self.position(query)
        return None if self.standard_errors is None else self.standard_errors[position]

    def suggested_labels(self, query: str | int | None = None) -> Tensor:
        """The label under which each sample would help most, int64, (samples,).

        Args:
            query: Name or row of the query; needed if there are several.

        Raises:
            QueryError: The scores were computed without labels=True.
        """
        if self.label_contributions is None:
            raise QueryError("These scores have no label contributions. Compute them: hg.attribute(..., labels=True).")
        return self.label_contributions[self.position(query)].argmax(-1)

    def to_frame(self) -> pd.DataFrame:
        """One row a training sample, one column a query; positive helps, unit of the query.

        Where there are standard errors, each query has a second column, "<query> (standard error)".
        """
        frame = pd.DataFrame(self.values.T.numpy(), columns=pd.Index(self.query_names, name=MEANING))
        if self.standard_errors is not None:
            names = [f"{name} (standard error)" for name in self.query_names]
            errors = pd.DataFrame(self.standard_errors.T.numpy(), columns=pd.Index(names, name=MEANING))
            # Values and errors next to each other, query by query.
            order = [column for row in range(len(names)) for column in (row, len(names) + row)]
            frame = pd.concat([frame, errors], axis=1).iloc[:, order]
        return frame.set_index(pd.Index(self.sample_ids.numpy(), name="sample"))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with everything but the queries themselves; `path`'s folder is made."""
        tensors, metadata = self.packed()
        save_sealed(tensors, Path(path), metadata | {FILE: Path(path).name})

    def packed(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tensors and metadata of a file: everything but the queries themselves."""
        tensors = {"values": self.values, "sample_ids": self.sample_ids, "query_values": self.query_values}
        optional = {
            "standard_errors": self.standard_errors,
            "label_contributions": self.label_contributions,
            "part_contributions": self.part_contributions,
            "over_time": self.over_time,
        }
        tensors |= {name: tensor for name, tensor in optional.items() if tensor is not None}
        metadata = {
            "meaning": MEANING,
            "query_names": json.dumps(self.query_names),
            "evidence": json.dumps(self.evidence.to_dict()),
            "query_samples": json.dumps(self.query_samples),
            "about": json.dumps(dict(self.about)),
        }
        return tensors, metadata

    @classmethod
    def unpacked(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Self:
        """The scores that `packed` took apart.

        Raises:
            KeyError, TypeError, ValueError: Something else.
        """
        parts: dict[str, Any] = dict(tensors)
        return cls(**parts, **described(metadata))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote; of a file that was renamed since, or put in the place of another, it warns.

        Raises:
            RunNotFound: There is none.
            RunDamaged: It is no such file, or altered.
        """
        if not Path(path).exists():
            raise RunNotFound(f"There are no scores at {path}. Compute them: hg.attribute (hydragrad attribute).")
        try:
            tensors, metadata = load_sealed(Path(path))
            scores = cls.unpacked(tensors, metadata)
        except (KeyError, TypeError, ValueError) as error:
            raise RunDamaged(f"{path} is no scores file ({error}). Compute the scores again.") from error
        # Files of earlier versions do not say their name.
        if metadata.get(FILE, Path(path).name) != Path(path).name:
            warnings.warn(
                f"{path} was saved as {metadata[FILE]}: renamed, or another file in its place? Save these scores under "
                f"their new name if they are the ones you mean.",
                stacklevel=2,
            )
        return scores

    def position(self, query: str | int | None = None) -> int:
        """The row of a query.

        Raises:
            QueryError: An unknown query, or none given where there are several.
        """
        if query is None and len(self.query_names) == 1:
            return 0
        if isinstance(query, int) and 0 <= query < len(self.query_names):
            return query
        if isinstance(query, str) and self.query_names.count(query) > 1:
            rows = [row for row, name in enumerate(self.query_names) if name == query]
            raise QueryError(f"Several queries are named {query!r}: rows {rows[:8]}. Give the row's number.")
        if isinstance(query, str) and query in self.query_names:
            return self.query_names.index(query)
        shown = ", ".join(self.query_names[:8]) + (", ..." if len(self.query_names) > 8 else "")
        got = "none was named" if query is None else f"got {query!r}"
        raise QueryError(f"These scores answer {len(self.query_names)} queries ({shown}); {got}. Name one.")

    def _extreme(self, k: int, query: str | int | None, *, descending: bool) -> list[int]:
        order = torch.argsort(self.row(query), descending=descending, stable=True)[:k]
        samples: list[int] = self.sample_ids[order].tolist()
        return samples


def described(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the metadata of a scores file says: query names, evidence, and what later versions added.

    Raises:
        KeyError, TypeError, ValueError: The metadata of something else.
    """
    samples = json.loads(metadata.get("query_samples", "null"))
    return {
        "query_names": tuple(json.loads(metadata["query_names"])),
        "evidence": Evidence.from_dict(json.loads(metadata["evidence"])),
        "query_samples": None if samples is None else tuple(samples),
        "about": json.loads(metadata.get("about", "{}")),
    }
