"""Private copies of a model, whatever it keeps of its last forward pass."""

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _functorch as functorch
from torch.overrides import TorchFunctionMode

from hydragrad.errors import Unsupported

OUR_OWN = "hydragrad."
"""Functions of this package that watch a model speak of the original, wherever they are."""


COMPRESSED = torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc
"""Layouts that copy.deepcopy can't copy."""


FRAMEWORKS = "lightning", "pytorch_lightning", "lightning_fabric", "hydragrad"
"""Their trainers, and what records these, hang on the modules that they train, and hold everything else."""


def is_trainer(value: Any) -> bool:
    """Whether an attribute of a module is an object that trains it, or records that; no copy has Lightning's."""
    return type(value).__module__.partition(".")[0] in FRAMEWORKS and not isinstance(value, nn.Module)


def copy_of(model: nn.Module) -> nn.Module:
    """Copy a model: parameters, buffers, hooks, and everything else that its modules hold.

    Tensors that a forward pass left in the model (kept activations; the weight that old `weight_norm`, `spectral_norm`
    and `prune` make before every pass) are copied with their values, apart from the graph that they belong to.

    Raises:
        Unsupported: Something in the model can't be copied; names the module and its attribute.
    """
    try:
        with copying_kept_tensors():
            copies = _instead_of_trainers(model)
            copied = copy.deepcopy(model, copies)
    except Exception as error:
        raise Unsupported(
            f"The model is replayed on a copy, and {_culprit(model)} can't be copied ({_first_line(error)}). Delete "
            f"that attribute, keep it outside of the model, or give its class a __deepcopy__ method."
        ) from error
    _leave_autocast_out(copied)
    for module in copied.modules():
        _rebind(module.__dict__, copies)
    return copied


def _instead_of_trainers(model: nn.Module) -> dict[int, Any]:
    """What copy.deepcopy takes as copied already."""
    held = (
        value for module in model.modules() for name, value in vars(module).items() if name in ("_trainer", "_fabric")
    )
    return {id(value): None for value in held if is_trainer(value)}


def copying_kept_tensors() -> AbstractContextManager[Any]:
    """Let copy.deepcopy copy tensors that are no leaves of a graph, inside the block."""
    return _KeptTensors()


class _KeptTensors(TorchFunctionMode):
    """Lets copy.deepcopy copy tensors that are no leaves of a graph."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is Tensor.__deepcopy__:
            kept, memo = args
            if functorch.is_functorch_wrapped_tensor(kept) or not kept.is_leaf or kept.layout in COMPRESSED:
                if id(kept) not in memo:
                    memo[id(kept)] = _unwrapped(kept).detach().clone()
                return memo[id(kept)]
        return function(*args, **(kwargs or {}))


def enters_autocast(model: nn.Module) -> bool:
    """Whether accelerate surrounded the model's forward with autocast, for mixed precision."""
    return "_original_forward" in vars(model) and "forward" in vars(model)


def _leave_autocast_out(model: nn.Module) -> None:
    """Give a copy the forward that its model had before accelerate prepared that: what a run ran under is recorded."""
    if not enters_autocast(model):
        return
    held = vars(model)
    del held["forward"]
    before = held.pop("_original_forward")
    if getattr(before, "__func__", None) is not type(model).forward:
        held["forward"] = before


def _rebind(held: Any, copies: dict[int, Any]) -> None:
    """Have what copy.deepcopy hands on as it is speak of the copied modules, not of the originals, in place.

    These are functions (a forward of an instance's own, hooks) and weak references, in attributes, lists and dicts.
    """
    entries = held.items() if isinstance(held, dict) else enumerate(held)
    for key, value in list(entries):
        if isinstance(value, FunctionType):
            held[key] = _rebound(value, copies)
        elif isinstance(value, weakref.ref):
            copied = copies.get(id(value()))
            held[key] = value if copied is None else weakref.ref(copied)
        elif isinstance(value, list | dict):
            _rebind(value, copies)


def _rebound(function: FunctionType, copies: dict[int, Any]) -> FunctionType:
    cells = () if (function.__module__ or "").startswith(OUR_OWN) else function.__closure__ or ()
    contents = [_copy_in(cell, copies) for cell in cells]
    if all(content is cell for content, cell in zip(contents, cells, strict=True)):
        return function
    rebound = FunctionType(function.__code__, function.__globals__, function.__name__, None, tuple(contents))
    rebound.__defaults__, rebound.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return rebound


def _copy_in(cell: CellType, copies: dict[int, Any]) -> CellType:
    """A cell with the copy of the module or tensor that is in this one; the same cell where there is none."""
    try:
        content = cell.cell_contents
    except ValueError:  # empty
        return cell
    copied = copies.get(id(content))
    return cell if copied is None or not isinstance(content, nn.Module | Tensor) else CellType(copied)


def _unwrapped(tensor: Tensor) -> Tensor:
    """What a transform of torch.func that is over left behind, as a plain tensor."""
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor


def _culprit(model: nn.Module) -> str:
    """The module and attribute that can't be copied."""
    for path, module in model.named_modules():
        for name, value in _attributes(module):
            try:
                with copying_kept_tensors(), torch.no_grad():
                    copy.deepcopy(value)
            except Exception:
                place = f"{path}.{name}" if path else name
                return f"the attribute {place} of {type(module).__name__} (a {type(value).__name__})"
    return f"the {type(model).__name__}"


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What a module holds itself; its children are looked at in their turn."""
    for name, value in vars(module).items():
        if name != "_modules":
            yield name, value


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
