"""What can be differentiated at all, and a refusal with its reason for the rest."""

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from hydragrad.derivatives.wrapped import require_whole
from hydragrad.errors import Unsupported

PRECISIONS = (torch.float32, torch.float64)


def require_differentiable(model: nn.Module) -> None:
    """Refuse models whose derivatives would be noise or silently wrong.

    Raises:
        Unsupported: Half precision, complex or mixed parameters; parameters without values or of inference mode;
            TorchScript; embeddings whose gradient is no derivative; a model spread over processes.
    """
    require_whole(model)
    _require_ordinary(model)
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if not dtypes:
        raise Unsupported("The model has no parameters, so training samples can't have moved any.")
    if len(dtypes) > 1 or not dtypes <= set(PRECISIONS):
        raise Unsupported(
            f"The model's parameters are {', '.join(sorted(map(str, dtypes)))}; derivatives of a run are noise in "
            f"half precision, so all must be float32, or all float64. Convert with model.float()."
        )
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) > 1:
        raise Unsupported(f"The model is spread over {sorted(map(str, devices))}; put it on one device.")
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            for option in ("sparse", "scale_grad_by_freq", "max_norm"):
                if getattr(module, option):
                    raise Unsupported(
                        f"{name} ({type(module).__name__}) has {option}={getattr(module, option)}: its gradient is "
                        f"sparse or no derivative of the loss. Build it without {option}."
                    )


def _require_ordinary(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise Unsupported(
                f"The model must be a plain nn.Module, and {path or 'it'} is TorchScript (torch.jit.script or trace), "
                f"which can't be hooked or copied. Train the module that it was made from, and script it afterwards."
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise Unsupported(
                f"Parameters must have values; {name} is made by the first forward pass (a lazy module). Run the model "
                f"on one batch before the optimizer and the recording are made."
            )
        if tensor.is_inference():
            raise Unsupported(
                f"Parameters and buffers must be ordinary tensors; {name} was made under torch.inference_mode(), and "
                f"such tensors have no derivative. Build or load the model outside of it."
            )
