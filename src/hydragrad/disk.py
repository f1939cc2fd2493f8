"""Files that a kill or a full disk leaves complete: replaced atomically, tensors with a digest of their content."""

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hydragrad.errors import DiskFull, HydragradError, NotWritable, RunDamaged

DIGEST = "sha256"


REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
"""What the system says where a path can't be written: no permission, read-only, a file for a folder or a folder."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says against writing a path into an error that names it and says what to do.

    Raises:
        DiskFull: There is no space left.
        NotWritable: No permission, or a path that leads through a file.
    """
    try:
        yield
    except HydragradError:
        raise
    except OSError as error:
        if error.errno in REFUSED:
            raise NotWritable(
                f"{path} must be in a folder that may be written; the system says: {error.strerror or error}. Choose "
                f"another path, or change the permissions."
            ) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(
                error.errno,
                f"The disk is full while writing {path}. What is recorded so far is complete. Free some space, then "
                f"resume with resume=True (--resume)",
            ) from error
        raise


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn a missing permission to read a path of a run into an error that names it.

    Raises:
        RunDamaged: Names the path.
    """
    try:
        yield
    except PermissionError as error:
        raise RunDamaged(f"{path} may not be read ({error.strerror or error}). Change its permissions.") from error


def make_folder(path: Path) -> None:
    """Make a folder, and those that it is in; one that is there already is fine.

    Raises:
        NotWritable: No permission, or a file is in the way.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def replace_file(path: Path, write: Callable[[Path], object], *, several: bool = False) -> None:
    """Write a file under another name, flush it to the disk, then rename it in one step.

    Args:
        path: The file.
        write: Writes a file of the name that it gets.
        several: Several processes may write the same file at the same time: each takes a name of its own.
    """
    temporary = path.with_name(path.name + (f".{uuid4().hex[:12]}" if several else "") + ".tmp")
    with writing(path):
        try:
            write(temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    if several:
        _clear_away(path)


ABANDONED_SECONDS = 86400.0
"""After so long, an unfinished file is what a kill has left."""


def _clear_away(path: Path) -> None:
    """Remove what killed processes left of a file that several may write."""
    with suppress(OSError):
        for left in path.parent.glob(f"{escape(path.name)}.*.tmp"):
            if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                left.unlink(missing_ok=True)


def save_file(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file; unlike safetensors' own, a full disk is an OSError and the umask is respected."""
    path.write_bytes(save(tensors, metadata))


def save_sealed(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None, *, key: str = ""
) -> None:
    """Write or replace a safetensors file with the digest of its content in its metadata; make its folder.

    Args:
        tensors, metadata: The content.
        path: The file.
        key: What else the digest covers; needed again to read the file.

    Raises:
        DiskFull: There is no space; an existing file stays as it was.
    """
    contents = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    described = dict(metadata or {})
    make_folder(path.parent)
    digest = content_digest(contents, described, key)
    replace_file(path, lambda to: save_file(contents, to, described | {DIGEST: digest}), several=True)


def load_sealed(path: Path, *, key: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a file that `save_sealed` wrote with this key.

    A file without a digest is not checked where no key is needed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is altered, truncated, of another key, or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            metadata: dict[str, str] = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    digest = metadata.pop(DIGEST, None)
    if (digest is not None or key) and digest != content_digest(tensors, metadata, key):
        raise ValueError("its content differs from its digest")
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
