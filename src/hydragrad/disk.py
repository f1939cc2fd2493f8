"""Files that a kill or a full disk leaves whole: replaced at once, tensors with a digest of their content."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hydragrad.errors import DiskFull

DIGEST = "sha256"


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turn 'no space left' into an error that says where and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(
                error.errno,
                f"The disk is full while writing {path}. What is recorded so far is kept; free some space and "
                f"go on with resume=True (--resume)",
            ) from error
        raise


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name, flush it to the disk, then put it in place at once."""
    temporary = path.with_name(path.name + ".tmp")
    with naming_full_disk(path):
        try:
            write(temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def save_file(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file; unlike safetensors' own, a full disk is an OSError and the umask is respected."""
    path.write_bytes(save(tensors, metadata))


def save_sealed(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None, *, key: str = ""
) -> None:
    """Write or replace a safetensors file that holds the digest of its content; its folder is made.

    Args:
        tensors, metadata: The content.
        path: The file.
        key: What else the digest covers; needed again to read the file.

    Raises:
        DiskFull: There is no space; a file that was there is as it was.
    """
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    told = dict(metadata or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda to: save_file(kept, to, told | {DIGEST: content_digest(kept, told, key)}))


def load_sealed(path: Path, *, key: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file that `save_sealed` wrote, with this key or none; one without a digest as it is.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is altered, cut off, of another key, or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            metadata: dict[str, str] = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    digest = metadata.pop(DIGEST, None)
    if digest is not None and digest not in {content_digest(tensors, metadata, some) for some in (key, "")}:
        raise ValueError("its content is not what was written")
    return tensors, metadata


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file without its tensors; that they are whole is not checked.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    metadata.pop(DIGEST, None)
    return metadata


def content_digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], key: str = "") -> str:
    """The sha256 of a key, of metadata, and of names, types, shapes and content of tensors on the CPU."""
    digest = hashlib.sha256((key + json.dumps(sorted(metadata.items()))).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
