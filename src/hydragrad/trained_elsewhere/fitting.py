"""A state dict held to a model: names, shapes and types, so that no weight is another one's."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hydragrad.errors import CheckpointError, NonFinite
from hydragrad.trained_elsewhere.state_files import shown


class Slots:
    """The parameters and saved buffers of a model, each with all the names that it has.

    Args:
        model: Is not changed; its values do not matter.
    """

    def __init__(self, model: nn.Module) -> None:
        names: dict[int, list[str]] = {}
        tensors: dict[int, Tensor] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            unsaved = module._non_persistent_buffers_set
            own = {
                **module._parameters,
                **{name: value for name, value in module._buffers.items() if name not in unsaved},
            }
            for name, value in own.items():
                if value is not None:
                    names.setdefault(id(value), []).append(f"{path}.{name}" if path else name)
                    tensors[id(value)] = value
        # The first name is the one that named_parameters and named_buffers give.
        self._names = list(names.values())
        self._facts = [(value.shape, value.dtype) for value in tensors.values()]
        self._known = {name for every in self._names for name in every}

    def fit(self, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """The tensors of a state dict by the model's own names, copied, in the model's types.

        A prefix that all names have (`model.`, `module.`, `_orig_mod.`) is left out where that makes them fit. Numbers
        of a shorter type are converted, which changes none; those of a longer one are refused.

        Args:
            state: Tensors by name.
            source: What messages call it.

        Raises:
            CheckpointError: Names that are missing or unexpected; another shape or type; tied weights that differ.
            NonFinite: NaN or infinity in a tensor.
        """
        state = self._renamed(state, source)
        fitted = {}
        for names, (shape, dtype) in zip(self._names, self._facts, strict=True):
            present = [name for name in names if name in state]
            value = state[present[0]]
            _require_plain(value, present[0], source)
            other = next((name for name in present[1:] if not _equal(state[name], value)), None)
            if other is not None:
                raise CheckpointError(
                    f"{present[0]} and {other} are one tensor in the model; in {source} they differ. Build the model "
                    f"without tying them."
                )
            _require_kind(value, shape, dtype, present[0], source)
            fitted[names[0]] = value.detach().to("cpu", dtype, copy=True).contiguous()
            if not fitted[names[0]].isfinite().all():
                raise NonFinite(
                    f"Weights must be finite; {present[0]} of {source} holds NaN or infinity: the training diverged "
                    f"before. Leave this checkpoint out."
                )
        return fitted

    def _renamed(self, state: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
        first = next(iter(state))
        prefixes = ["", *(first[: at + 1] for at, character in enumerate(first) if character == ".")]
        problems = {}
        for prefix in prefixes:
            if all(name.startswith(prefix) for name in state):
                renamed = {name.removeprefix(prefix): value for name, value in state.items()}
                problems[prefix] = self._missing(renamed), [name for name in renamed if name not in self._known]
                if problems[prefix] == ([], []):
                    return renamed
        nearest = min(problems, key=lambda prefix: sum(map(len, problems[prefix])))
        missing, unexpected = problems[nearest]
        without = f", without the prefix {nearest!r}," if nearest else ""
        raise CheckpointError(
            f"{source} must hold the model's {len(self._names):,} parameters and buffers, by name. In it{without} are "
            f"missing: {shown(missing) or 'none'}; unexpected: {shown(unexpected) or 'none'}. Build the model that was "
            f"saved, or give a state dict with its names only."
        )

    def _missing(self, state: Mapping[str, Tensor]) -> list[str]:
        return [names[0] for names in self._names if not any(name in state for name in names)]


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def _require_plain(value: Tensor, name: str, source: str) -> None:
    ordinary = type(value) in (Tensor, nn.Parameter)
    if not ordinary or value.layout is not torch.strided or value.is_quantized or value.is_meta:
        kind = "tensor without values, sparse or quantised" if ordinary else type(value).__name__
        raise CheckpointError(
            f"Weights must be dense tensors; {name} of {source} is a {kind}. Save the model whole, on one device, "
            f"unquantised."
        )


def _require_kind(value: Tensor, shape: Sequence[int], dtype: torch.dtype, name: str, source: str) -> None:
    if tuple(value.shape) != tuple(shape):
        raise CheckpointError(
            f"{name} has shape {tuple(shape)} in the model and {tuple(value.shape)} in {source}. Build the model with "
            f"the sizes that were trained."
        )
    if not _holds(dtype, value.dtype):
        raise CheckpointError(
            f"{name} is {value.dtype} in {source}, which {dtype} of the model can't hold unchanged. Convert the model "
            f"(model.double()), or save the weights in its type."
        )


def _holds(dtype: torch.dtype, other: torch.dtype) -> bool:
    """Whether a type has all numbers of another one of its kind."""
    if dtype.is_floating_point != other.is_floating_point or dtype.is_complex != other.is_complex:
        return False
    try:
        return torch.promote_types(other, dtype) == dtype
    except RuntimeError:  # types of eight bits, whose numbers mean little without their scales
        return False
