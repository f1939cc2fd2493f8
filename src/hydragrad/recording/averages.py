"""Averages of the weights that a loop keeps next to its model (EMA, SWA), watched.

How the loop makes them is not asked: what an update did is read off the numbers, and held to them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hydragrad.errors import RecordingMismatch, StepError, Unsupported
from hydragrad.recording.share import share_of
from hydragrad.recording.strided import strided
from hydragrad.runs.averages import Update

Average = nn.Module | Mapping[str, Tensor] | Sequence[Tensor]
"""A module like the model, or one around it (torch's AveragedModel); its tensors by name; or in the model's order."""

PARAMETERS, BUFFERS, OTHERS = "parameters", "buffers", "others"


class Averages:
    """Watches the averages of a loop.

    Args:
        averages: By the names that they are asked about under.
        model: The model being trained.

    Raises:
        Unsupported: An average that is not of this model.
    """

    def __init__(self, averages: Mapping[str, Average] | None, model: nn.Module) -> None:
        self._watched = [_Watched(name, average, model) for name, average in (averages or {}).items()]

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [one.name for one in self._watched]

    def begin(self) -> None:
        """Take the present averages as what the run starts from."""
        for one in self._watched:
            one.take()

    def updates(self, step: int, *, inside: bool = False) -> Iterator[Update]:
        """What changed since the last call, or the beginning, with the model as it is now.

        Args:
            step: How many steps the run has made.
            inside: Between the micro-batches of the next one, where running statistics are those of no step.

        Raises:
            StepError: Something else than an average of what was there and of the model.
        """
        for one in self._watched:
            update = one.update(step, inside)
            if update is not None:
                yield update

    def entries(self) -> dict[str, Tensor]:
        """All tensors, for a checkpoint."""
        return {f"{one.name}/{key}": value.detach().clone() for one in self._watched for key, value in one.entries()}

    def restore(self, entries: Mapping[str, Tensor], step: int) -> None:
        """Set the averages to those of a checkpoint, in place.

        Raises:
            RecordingMismatch: The checkpoint has other averages.
        """
        present = {f"{one.name}/{key}": value for one in self._watched for key, value in one.entries()}
        if present.keys() != entries.keys():
            recorded = sorted({key.partition("/")[0] for key in entries})
            raise RecordingMismatch(
                f"The run was recorded with the averages {', '.join(recorded) or 'none'} before step {step}, and now "
                f"has {', '.join(self.names) or 'none'}, or of other tensors. Resume it with averages= as they were."
            )
        with torch.no_grad():
            for key, value in present.items():
                value.copy_(entries[key])


class _Watched:
    """One average."""

    def __init__(self, name: str, average: Average, model: nn.Module) -> None:
        if not name or "/" in name:
            raise Unsupported(f"An average needs a name without '/', as in averages={{'ema': ema}}; got {name!r}.")
        self.name, self._average, self._model = name, average, model
        self._before: dict[str, dict[str, Tensor]] = {}
        self._seen: list[Tensor] = []
        self._share: dict[str, float] = {}
        self._require_same_names()

    def take(self) -> None:
        present = self._present()
        self._before = {
            part: {name: value.detach().clone() for name, value in values.items()} for part, values in present.items()
        }
        self._seen = _sample(present)

    def update(self, step: int, inside: bool) -> Update | None:
        present = self._present()
        now = _sample(present)
        if len(now) == len(self._seen) and all(map(torch.equal, now, self._seen)):
            return None
        model: dict[str, Mapping[str, Tensor]] = {
            PARAMETERS: dict(self._model.named_parameters()),
            BUFFERS: dict(self._model.named_buffers()),
        }
        shares = {}
        for part, values in present.items():
            trained = {name: value.detach() for name, value in model[part].items()}
            shares[part] = share_of(self._before[part], values, trained, [self._share.get(part, 1.0)])
        weights, buffers = shares[PARAMETERS], shares[BUFFERS]
        if weights is None:
            raise StepError(
                f"An average must become a part of what it was and a part of the model's weights, all weights alike; "
                f"{self.name!r} became something else before step {step}: it was made of the weights before the "
                f"optimizer's step, each tensor by a rule of its own, or loaded. Update it after optimizer.step() and "
                f"before the next one, or leave it out of averages=."
            )
        self.take()
        self._share = {part: share.value for part, share in shares.items() if share is not None}
        known = None if buffers is None or (inside and buffers.value) else buffers.value
        return Update(self.name, step, weights.value, known, weights.error)

    def entries(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor by part and name: parameters, buffers, and what a module around them has next to these."""
        mine = set()
        parameters, buffers = self._named()
        for part, values in ((PARAMETERS, parameters), (BUFFERS, buffers)):
            for name, value in values.items():
                mine.add(id(value))
                yield f"{part}/{name}", value
        if isinstance(self._average, nn.Module):
            yield from ((f"{OTHERS}/{n}", b) for n, b in self._average.named_buffers() if id(b) not in mine)

    def _present(self) -> dict[str, dict[str, Tensor]]:
        """What an update moves: floating parameters and buffers that the model has, too."""
        parameters, buffers = self._named()
        return {
            PARAMETERS: {name: value.detach() for name, value in parameters.items()},
            BUFFERS: {n: b.detach() for n, b in buffers.items() if b.is_floating_point() and b.numel()},
        }

    def _named(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Its parameters and buffers, by the names that the model has for them."""
        names = [name for name, _ in self._model.named_parameters()]
        trained = [name for name, value in self._model.named_parameters() if value.requires_grad]
        average: Any = self._average
        if isinstance(average, nn.Module):
            inner = average
            while not set(names) <= dict(inner.named_parameters()).keys() and isinstance(
                getattr(inner, "module", None), nn.Module
            ):
                inner = inner.module  # type: ignore[assignment]
            parameters, buffers = dict(inner.named_parameters()), dict(inner.named_buffers())
            known = {name for name, _ in self._model.named_buffers()}
            return (
                {name: parameters[name] for name in names if name in parameters},
                {name: value for name, value in buffers.items() if name in known},
            )
        if isinstance(average, Mapping):
            return {name: average[name] for name in names if name in average}, {}
        values = list(average)
        called = names if len(values) == len(names) else trained
        return dict(zip(called, values, strict=False)) if len(values) == len(called) else {}, {}

    def _require_same_names(self) -> None:
        parameters, _ = self._named()
        for name, value in self._model.named_parameters():
            held = parameters.get(name)
            if held is None and not value.requires_grad:
                continue
            if held is None or held.shape != value.shape or not held.is_floating_point():
                what = "none" if held is None else f"one of shape {tuple(held.shape)} and {held.dtype}"
                raise Unsupported(
                    f"An average has every trained weight of the model, floating and of its shape; {self.name!r} has "
                    f"{what} for {name}, of shape {tuple(value.shape)}. Give averages= the averaged module, its "
                    f"tensors by the model's names, or a list of them in the order of model.parameters()."
                )


def _sample(present: Mapping[str, Mapping[str, Tensor]]) -> list[Tensor]:
    """Some coordinates of every tensor; an update of all moves some of them."""
    return [strided(value).clone() for values in present.values() for value in values.values()]
