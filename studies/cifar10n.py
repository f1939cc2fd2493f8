"""CIFAR-10N: labels that people gave to CIFAR-10's training images.

For research only: CC BY-NC 4.0.

Source: Wei, Zhu, Cheng, Liu, Niu, Liu, "Learning with Noisy Labels Revisited", ICLR 2022.
"""

import io
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hydragrad.datasets.download import Remote, download
from hydragrad.datasets.files import data_folder, locate, read_verified
from hydragrad.errors import UnknownName

FILE = "CIFAR-10_human.pt"
REMOTE = Remote(f"https://github.com/UCSC-REAL/cifar-10-100n/raw/main/data/{FILE}", "96644db5574813cae939af5f7f2a0aec")
SUBFOLDERS = ("cifar-10n", "cifar10n", "CIFAR-N", "cifar-10", ".")
HUMAN: dict[str, str] = {
    "aggregate": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
    "worst": "worse_label",
}
"""Kind of label → its name in the file: the majority of three annotators, each of the three, a wrong one if any."""


def human_labels(kind: str, *, data_dir: str | os.PathLike[str] | None = None) -> Tensor:
    """Load labels of CIFAR-10's 50,000 training images in their published order, int64 (50000,).

    Args:
        kind: A key of `HUMAN`.
        data_dir: A folder that holds the file. None: the folder in HYDRAGRAD_DATA; without one, a download.

    Raises:
        UnknownName: `kind` is not a key of `HUMAN`.
        DataNotFound: The file is not in the folder, or cannot be downloaded.
        ChecksumMismatch: The file is not the published one.
    """
    if kind not in HUMAN:
        raise UnknownName(f"kind must be one of {', '.join(HUMAN)}, got {kind!r}.")
    folder = data_folder(data_dir)
    path = locate("cifar10n", folder, SUBFOLDERS, [(FILE,)]).paths[0] if folder else download("cifar10n", [REMOTE])[0]
    return torch.from_numpy(_read(path)[HUMAN[kind]].astype(np.int64))


def _read(path: Path) -> dict[str, np.ndarray]:
    """Read the verified file's arrays with torch's restricted unpickler; numpy's own types are allowed."""
    allowed = [  # the first one is numpy's array builder, under the name it had when the file was written
        (np.empty(0).__reduce__()[0], "numpy.core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        np.dtypes.Int64DType,
    ]
    with torch.serialization.safe_globals(allowed):  # type: ignore[arg-type]  # the stub omits the pairs
        arrays: dict[str, np.ndarray] = torch.load(io.BytesIO(read_verified(path, REMOTE.md5)), weights_only=True)
    return arrays
