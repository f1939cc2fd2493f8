"""CIFAR-10 from its six pickled batches: plain, compressed one by one, or in the published archive.

A pickle can run code when it is loaded. A batch is unpickled only if its md5 is the published one, and only
by an unpickler that accepts plain containers and one byte array.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

import io
import pickle
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydragrad.datasets.cache import load_arrays, save_arrays
from hydragrad.datasets.download import Remote, download
from hydragrad.datasets.files import DAMAGED, Located, locate, md5_of, mismatch, read_verified, require_md5
from hydragrad.datasets.published import Labels, Pixels, Published
from hydragrad.errors import DataError, DataNotFound

ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"
TEST = "test_batch"


@dataclass(frozen=True, kw_only=True)
class CifarSource:
    """The batches: name → md5 of the content, in order, and the archive that holds all of them."""

    batches: Mapping[str, str]
    archive: Remote


CIFAR10 = CifarSource(
    batches={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        TEST: "40351d587109b95175f43aff81a1287e",
    },
    archive=Remote(f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}", "c58f30108f718f92721af3b95e74349a"),
)
SUBFOLDERS = (
    f"cifar-10/{FOLDER}",
    f"cifar10/{FOLDER}",
    f"CIFAR10/{FOLDER}",
    FOLDER,
    "cifar-10",
    "cifar10",
    "CIFAR10",
    ".",
)
CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


def read_cifar10(source: CifarSource, folder: Path | None) -> Published:
    """Read the batches from a folder, or download the archive if it is None.

    The decoded arrays (184 MB) are cached: only the first reading of the same files takes seconds.

    Raises:
        DataNotFound: The files are not in the folder, a batch is missing in the archive, or the download fails.
        ChecksumMismatch: A batch is not the published one.
    """
    if folder:
        located = locate("cifar10", folder, SUBFOLDERS, [tuple(source.batches), (ARCHIVE,)])
    else:
        located = Located((ARCHIVE,), download("cifar10", [source.archive]))
    arrays = _arrays(source, located)
    return Published(
        train_images=arrays["train_images"],
        train_labels=arrays["train_labels"],
        test_images=arrays["test_images"],
        test_labels=arrays["test_labels"],
        classes=CLASSES,
        mean=MEAN,
        std=STD,
    )


def decode_batch(content: bytes) -> tuple[Pixels, Labels]:
    """Decode a verified batch: images, uint8 (N, 3, 32, 32) and read-only, and labels, int64 (N,).

    Raises:
        DataError: The pickle names a type other than a byte array in plain containers.
    """
    # The batches were pickled by Python 2: its strings are bytes here.
    batch = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
    return batch[b"data"].pixels.reshape(-1, 3, 32, 32), np.array(batch[b"labels"], np.int64)


def _arrays(source: CifarSource, located: Located) -> dict[str, Any]:
    name = f"cifar10-{_fingerprint(source, located.paths)}"
    cached = load_arrays(name)
    if cached is not None:
        return cached
    decoded = {batch: decode_batch(content) for batch, content in _contents(source, located)}
    train = [decoded[batch] for batch in source.batches if batch != TEST]
    arrays = {
        "train_images": np.concatenate([images for images, _ in train]),
        "train_labels": np.concatenate([labels for _, labels in train]),
        "test_images": decoded[TEST][0],
        "test_labels": decoded[TEST][1],
    }
    save_arrays(name, arrays)
    return arrays


def _fingerprint(source: CifarSource, paths: tuple[Path, ...]) -> str:
    """Digest the stored files together with the contents they must have.

    The cache is written after the contents were verified. A cache entry of this fingerprint therefore belongs to
    the same, verified files; a file that was altered since has another fingerprint and is verified again.
    """
    stored = [md5_of(path.read_bytes()) for path in paths]
    return md5_of(" ".join([*source.batches.values(), *stored]).encode())


def _contents(source: CifarSource, located: Located) -> Iterator[tuple[str, bytes]]:
    """Yield each batch's name and verified content."""
    if tuple(located.layout) == (ARCHIVE,):
        yield from _unpacked(source, located.paths[0])
        return
    for (batch, md5), path in zip(source.batches.items(), located.paths, strict=True):
        yield batch, read_verified(path, md5)


def _unpacked(source: CifarSource, path: Path) -> Iterator[tuple[str, bytes]]:
    missing = dict(source.batches)
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                batch = Path(member.name).name
                file = archive.extractfile(member) if batch in missing else None
                if file is not None:
                    content = file.read()
                    require_md5(path / member.name, content, missing.pop(batch))
                    yield batch, content
    except (*DAMAGED, tarfile.TarError) as error:
        raise mismatch(path, source.archive.md5, f"a damaged archive ({error})") from error
    if missing:
        raise DataNotFound(
            f"{path} must hold all batches; {', '.join(missing)} missing. Fetch the archive again: {source.archive.url}"
        )


class _ByteArray:
    """Stands for numpy's array in a pickle: stores the bytes, ignores type and strides."""

    pixels: NDArray[np.uint8]

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        *_, content = state
        self.pixels = np.frombuffer(content, np.uint8)


class _Type:
    """Stands for numpy's dtype in a pickle: always uint8."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


class _BatchUnpickler(pickle.Unpickler):
    ALLOWED: Mapping[tuple[str, str], type] = {
        ("numpy.core.multiarray", "_reconstruct"): _ByteArray,
        ("numpy", "ndarray"): _ByteArray,
        ("numpy", "dtype"): _Type,
    }

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in self.ALLOWED:
            raise DataError(
                f"A CIFAR-10 batch must hold a byte array and labels only; this one names {module}.{name}. "
                f"Fetch the published files again."
            )
        return self.ALLOWED[module, name]
