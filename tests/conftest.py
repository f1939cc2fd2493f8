"""What every test gets: one thread, no display, the same examples every time."""

import importlib.util
import os
import sys
import warnings

# Before torch and matplotlib are imported: both read these only once.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"

# The folder tests/datasets is on the path, and is not the library of that name, which transformers looks for.
if (spec := importlib.util.find_spec("datasets")) is not None and not spec.has_location:
    sys.modules["datasets"] = None  # type: ignore[assignment]

from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

with warnings.catch_warnings():
    # torch loads this at its first forward-mode derivative, with a deprecation warning about itself.
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)  # as which torch 2.14 gives it
    import torch._decomp.decompositions_for_jvp

settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of the test's own, so that no test depends on which ran before it."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real data sets; tests that need it are skipped where there is none."""
    folder = os.environ.get("HYDRAGRAD_DATA")
    if not folder:
        pytest.skip("set HYDRAGRAD_DATA to the folder that holds mnist/, fashion-mnist/ and cifar-10/")
    if not Path(folder).is_dir():
        pytest.fail(f"HYDRAGRAD_DATA names {folder}, which is not a folder")
    return Path(folder)
