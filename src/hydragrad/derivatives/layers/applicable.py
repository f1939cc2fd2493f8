"""Whether a model's layers split into samples by their rules."""

from torch import Tensor, nn

from hydragrad.derivatives.layers.rules import RULES
from hydragrad.derivatives.torch_gaps.batch_norm import batch_coupled
from hydragrad.derivatives.torch_gaps.compiled import is_compiled


class HooksInapplicable(Exception):
    """The model's layers do not split into samples, or no longer do."""


def why_not_hooks(model: nn.Module) -> str | None:
    """Say why the rules of layers do not hold for `model`, or return None where nothing contradicts them."""
    if is_compiled(model):
        return "the model or a part of it is compiled, and hooks are not called there"
    if batch_coupled(model):
        return "BatchNorm in training mode couples the samples of a batch"
    for name, module in model.named_modules():
        parameters = {own for own, _ in module.named_parameters(recurse=False)}
        rule = RULES.get(type(module))
        if parameters - (rule.parameters.keys() if rule else set()):
            return f"no rule for the parameters of {name or 'the model'} ({type(module).__name__})"
        if rule and not rule.applies(module):
            return f"the rule of {type(module).__name__} does not hold for the options of {name or 'the model'}"
    return None


def why_not_one_row_a_sample(layer: nn.Module, inputs: tuple[object, ...], output: object, size: int) -> str | None:
    """Say why a layer's call does not split into `size` samples, or return None where nothing contradicts it."""
    values = (*inputs, output)
    splits = len(values) == 2 and all(isinstance(value, Tensor) and value.shape[:1] == (size,) for value in values)
    return None if splits else f"{type(layer).__name__} does not see one row a sample"
