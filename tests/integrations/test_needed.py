"""A framework that is not installed is named; none is imported with the package."""

import subprocess
import sys

import pytest

from hydragrad.errors import FrameworkMissing
from hydragrad.integrations.needed import need


def test_a_missing_framework_is_named_with_what_to_install():
    with pytest.raises(
        FrameworkMissing, match=r"needs the package no_such_framework.*pip install 'hydragrad\[skorch\]'"
    ):
        need("no_such_framework", "skorch")
    with pytest.raises(FrameworkMissing, match=r"hydragrad\.labelling\.cleanlab needs the package no_such_framework"):
        need("no_such_framework", "cleanlab", room="labelling")
    need("json", "skorch")


def test_a_framework_that_lacks_something_itself_says_so_itself(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import no_such_part\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_part'"):
        need("half_there", "skorch")


def test_importing_the_package_imports_no_framework():
    tools = ("transformers", "lightning", "accelerate", "skorch", "peft", "cleanlab", "label_studio_sdk", "fiftyone")
    code = (
        "import sys, hydragrad, hydragrad.integrations, hydragrad.integrations.sequence_losses;"
        f"print([name for name in {tools} if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
