"""How contributions are computed: curvature, damping, smoothing, replays, as one value."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

from hydragrad.errors import QueryError

Curvature = Literal["none", "hessian", "ggn"]

Removal = Literal["weight", "renormalised"]
"""What leaving a sample out means: its loss has weight 0 and the others keep their coefficients; or the mean of its
batch is taken over the rest."""

DROP = 0.1
"""Share of the samples that a replay leaves out, unless another one is named."""

TRAININGS: dict[Curvature, float] = {"none": 2.0, "ggn": 3.4, "hessian": 4.2}
"""What one pass over the run costs in trainings, rounded up: docs/costs.md has the measurements."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to compute contributions.

    Attributes:
        curvature: none (HYDRA: the curvature of the loss is dropped), hessian (exact), ggn (Gauss-Newton).
        damping: Added to the curvature, times the identity.
        smoothing: Of Adam-like optimizers: added to the second moment, as a share of its mean, in the derivative only.
            None is 0.01 where it applies, 0 the exact derivative.
        replays: Numbers of the replays that are averaged over in place of the run itself; a replay's number decides
            which samples it leaves out.
        drop: Share of the samples that a replay leaves out.
        removal: What leaving a sample out means.

    Raises:
        QueryError: A value out of its range, or damping or replays without curvature.
    """

    curvature: Curvature = "none"
    damping: float = 0.0
    smoothing: float | None = None
    replays: tuple[int, ...] = ()
    drop: float = DROP
    removal: Removal = "weight"

    def __post_init__(self) -> None:
        if self.curvature not in get_args(Curvature):
            raise QueryError(f"curvature must be one of {', '.join(get_args(Curvature))}, got {self.curvature!r}.")
        if self.removal not in get_args(Removal):
            raise QueryError(f"removal must be one of {', '.join(get_args(Removal))}, got {self.removal!r}.")
        if not _finite_and_not_negative(self.damping):
            raise QueryError(f"damping must be finite and not negative, got {self.damping}.")
        if self.damping and self.curvature == "none":
            raise QueryError("damping is added to the curvature; with curvature='none' there is none. Leave it out.")
        if self.smoothing is not None and not _finite_and_not_negative(self.smoothing):
            raise QueryError(
                f"smoothing must be finite and not negative, or None for 0.01 where it applies, got {self.smoothing}."
            )
        if self.replays and self.curvature == "none":
            raise QueryError("replays= averages sweeps with curvature: choose 'hessian' or 'ggn', or leave it out.")
        if any(number < 0 for number in self.replays) or not 0 < self.drop < 1:
            raise QueryError(
                f"replays must not be negative and drop must be a share between 0 and 1, got replays "
                f"{list(self.replays)} and drop {self.drop}."
            )

    @classmethod
    def of(
        cls,
        curvature: Curvature = "none",
        *,
        damping: float = 0.0,
        smoothing: float | None = None,
        replays: int | Sequence[int] = 0,
        drop: float = DROP,
        removal: Removal = "weight",
    ) -> Self:
        """Build a method from the keywords of `attribute`, where n replays are those numbered 0 to n - 1.

        Raises:
            QueryError: As for `Method`.
        """
        if isinstance(replays, int):
            numbers = tuple(range(replays)) if replays >= 0 else (replays,)
        else:
            numbers = tuple(int(number) for number in replays)
        return cls(
            curvature=curvature, damping=damping, smoothing=smoothing, replays=numbers, drop=drop, removal=removal
        )

    @property
    def trainings(self) -> float:
        """What computing it costs, in trainings of the run, rounded up."""
        return TRAININGS[self.curvature] * max(1, len(self.replays))

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of `attribute` that make it; those with their default value are left out."""
        numbers = list(self.replays)
        others: dict[str, Any] = {
            "damping": self.damping or None,
            "smoothing": self.smoothing,
            "replays": (len(numbers) if numbers == list(range(len(numbers))) else numbers) or None,
            "drop": None if self.drop == DROP else self.drop,
            "removal": None if self.removal == "weight" else self.removal,
        }
        return {"curvature": self.curvature} | {name: value for name, value in others.items() if value is not None}

    @property
    def in_python(self) -> str:
        """The method as it is typed in Python."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())

    @property
    def in_words(self) -> str:
        """The method in the heading of a table or a sentence."""
        options = self.options
        parts: list[str] = [self.curvature]
        parts += [f"{name} {options[name]:g}" for name in ("damping", "smoothing") if name in options]
        if self.replays:
            parts.append(f"{len(self.replays)} replay{'s' if len(self.replays) > 1 else ''}")
            parts += [f"drop {self.drop:g}"] if "drop" in options else []
        parts += [self.removal] if "removal" in options else []
        return ", ".join(parts)

    @property
    def in_file_names(self) -> str:
        """The method as a part of a file's name; different methods have different ones."""
        options = self.options
        names = [f"-{name}{options[name]:g}" for name in ("damping", "smoothing") if name in options]
        if self.replays:
            numbers = options["replays"]
            names.append(f"-replays{numbers if isinstance(numbers, int) else ','.join(map(str, numbers))}")
            names += [f"-drop{self.drop:g}"] if "drop" in options else []
        names += [f"-{self.removal}"] if "removal" in options else []
        return self.curvature + "".join(names)

    def covers(self, other: "Method") -> bool:
        """Whether it is the other one, or the same with more replays, whatever a removal is to mean."""
        plain: dict[str, Any] = {"replays": (), "drop": DROP, "removal": "weight"}
        same = replace(self, **plain) == replace(other, **plain)
        return same and len(self.replays) >= len(other.replays)


def _finite_and_not_negative(value: float) -> bool:
    return math.isfinite(value) and value >= 0
