"""State dicts in files and folders: safetensors, torch's own, Hugging Face folders, Lightning checkpoints.

Nothing here runs code that is in a file: pickles go through torch's `weights_only` reader, which builds tensors and
plain values only.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hydragrad.errors import CheckpointError, CheckpointNotFound

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
IN_FOLDERS = (SAFETENSORS, f"{SAFETENSORS}.index.json", PICKLE, f"{PICKLE}.index.json")
"""Files of a Hugging Face folder that hold a model, in the order in which they are looked for."""
ENTRIES = ("state_dict", "model_state_dict", "model")
"""Where a saved dict of several things has the model: Lightning's name, and those of torch's tutorials."""
SHOWN = 6
"""Names in a message, at most."""


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Read the state dict of a file or folder, on the CPU, under the names that it was saved with.

    Raises:
        CheckpointNotFound: There is none.
        CheckpointError: It holds something else, is damaged, or could only be read by running code.
    """
    if path.is_dir():
        return _of_folder(path)
    if not path.exists():
        raise CheckpointNotFound(f"There is no checkpoint {path}. Name a file, or a folder that a model was saved in.")
    return _safetensors(path) if path.suffix == ".safetensors" else state_in(_loaded(path), str(path))


def state_in(saved: Any, name: str) -> Mapping[str, Tensor]:
    """The state dict in what was saved: the thing itself, or its entry of a known name.

    Args:
        saved: A mapping.
        name: What messages call it.

    Raises:
        CheckpointError: There is no state dict in it.
    """
    if _is_state(saved):
        return saved  # type: ignore[no-any-return]
    if isinstance(saved, Mapping):
        for entry in ENTRIES:
            if _is_state(saved.get(entry)):
                return saved[entry]  # type: ignore[no-any-return]
    raise CheckpointError(
        f"{name} must hold a state dict: tensors by name, at the top or under {', '.join(ENTRIES)}. It holds "
        f"{_described(saved)}. Save what model.state_dict() returns."
    )


def shown(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _is_state(saved: Any) -> bool:
    return (
        isinstance(saved, Mapping)
        and bool(saved)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in saved.items())
    )


def _described(saved: Any) -> str:
    if not isinstance(saved, Mapping):
        return f"a {type(saved).__name__}"
    if not saved:
        return "nothing"
    others = [f"{name} (a {type(value).__name__})" for name, value in saved.items() if not isinstance(value, Tensor)]
    return shown(others)


def _of_folder(folder: Path) -> Mapping[str, Tensor]:
    for name in IN_FOLDERS:
        file = folder / name
        if file.is_file():
            return _sharded(file) if file.suffix == ".json" else read_state(file)
    lightning = sorted(folder.glob("*.ckpt"))
    if len(lightning) == 1:
        return read_state(lightning[0])
    inside = sorted(path.name for path in folder.iterdir())
    raise CheckpointError(
        f"{folder} must hold one model: {', '.join(IN_FOLDERS)}, or a single .ckpt file. It holds "
        f"{shown(inside) if inside else 'nothing'}. Name the files or folders of the single checkpoints, in the order "
        f"of training."
    )


def _sharded(index: Path) -> Mapping[str, Tensor]:
    """The tensors of several files, which an index names."""
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(places.values()))
        inside = all(Path(name).name == name for name in names)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise CheckpointError(
            f"{index} must be an index with a weight_map of names to files; it can't be read "
            f"({type(error).__name__}: {error}). Download or save it again."
        ) from error
    if not inside or not names:
        raise CheckpointError(
            f"{index} must name files in its own folder, got {shown(names) or 'none'}. Save the model again."
        )
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointNotFound(f"{index} names {shown(missing)}, not in its folder. Download or save them again.")
    state: dict[str, Tensor] = {}
    for name in names:
        state |= read_state(index.parent / name)
    if set(state) != set(places):
        differ = sorted(set(state) ^ set(places))
        raise CheckpointError(
            f"{index} and the files that it names must hold the same tensors; they differ in {shown(differ)}. Download "
            f"or save them again."
        )
    return state


def _safetensors(path: Path) -> Mapping[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            # Cloned into aligned memory: kernels round differently on what lies elsewhere in the mapped file.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no whole safetensors file ({error}). Copy or save it again.") from error
    return state_in(tensors, str(path))


def _loaded(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile and pickle have many
        raise CheckpointError(
            f"{path} must be a file that torch.load reads with weights_only=True: tensors and plain values, no code. "
            f"It is not ({_reason(error)}). Save the state dict alone where you trust the file: "
            f"torch.save(model.state_dict(), ...)."
        ) from error


def _reason(error: Exception) -> str:
    """What torch says, without its advice to run the code in the file."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    unsupported = next((line for line in lines if "Unsupported" in line or "GLOBAL" in line), None)
    line = unsupported or (lines[0] if lines else "")
    return f"{type(error).__name__}: {line[:200]}".removesuffix(": ")
