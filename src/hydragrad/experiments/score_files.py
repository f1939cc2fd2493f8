"""Score matrices in files: those of this library, and arrays that other libraries saved."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydragrad.disk import read_metadata
from hydragrad.errors import QueryError, RunDamaged, RunNotFound
from hydragrad.scores import Scores


def read_scores(path: Path) -> Scores | Tensor | NDArray[np.float64]:
    """Return the scores of a file: Scores (.safetensors), an array of NumPy (.npy) or a tensor of torch (.pt).

    No code in a file is run.

    Raises:
        RunNotFound: There is none.
        RunDamaged: It can't be read.
        QueryError: A file of another kind.
    """
    if not path.exists():
        raise RunNotFound(f"There are no scores at {path}.")
    if path.suffix not in (".safetensors", ".npy", ".pt"):
        raise QueryError(f"Scores are read from .safetensors, .npy and .pt files, got {path}.")
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False), np.float64)
        if path.suffix == ".pt":
            return _tensor(torch.load(path, weights_only=True, map_location="cpu"))
        if "evidence" not in read_metadata(path):
            raise QueryError(f"{path} holds no scores of hydragrad. Save a matrix of another library as .npy or .pt.")
        return Scores.load(path)
    except QueryError:
        raise
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise RunDamaged(f"{path} can't be read as scores ({str(error).splitlines()[0]}). Save them again.") from error
    except UnpicklingError as error:
        raise RunDamaged(
            f"{path} can't be read as a tensor without running code in it. Save a plain tensor."
        ) from error


def _tensor(loaded: object) -> Tensor:
    if not isinstance(loaded, Tensor):
        kind = "a dict" if isinstance(loaded, Mapping) else type(loaded).__name__
        raise QueryError(f"A .pt file of scores holds one tensor, got {kind}. Save the matrix alone.")
    return loaded
