"""Compiled models and parts: the plain modules are differentiated, the compiled ones replayed.

A compiled function has no forward mode and is differentiated once only; what it computes is what its module does.
"""

from typing import Any

from torch import nn

COMPILED_CALL = "_compiled_call_impl"


class Plain(nn.Module):
    """A module in place of its compiled form, under the same names."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module
        self.training = module.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""
        return self._orig_mod(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._orig_mod, name)


def is_compiled(model: nn.Module) -> bool:
    """Whether a model or some part of it is compiled."""
    return any(_is_wrapper(module) or getattr(module, COMPILED_CALL, None) is not None for module in model.modules())


def plain(model: nn.Module) -> nn.Module:
    """The model with its compiled parts as they were before, in place; the names of parameters stay."""
    for module in list(model.modules()):
        if getattr(module, COMPILED_CALL, None) is not None:
            module.__dict__[COMPILED_CALL] = None
        for name, child in list(module._modules.items()):
            if child is not None and _is_wrapper(child):
                module._modules[name] = Plain(_inside(child))
    return Plain(_inside(model)) if _is_wrapper(model) else model


def _is_wrapper(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules


def _inside(wrapper: nn.Module) -> nn.Module:
    module = wrapper._modules["_orig_mod"]
    assert isinstance(module, nn.Module)
    return module
