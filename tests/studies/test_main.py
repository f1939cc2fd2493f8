"""`python -m studies`: what there is, with a line each, and mistakes without a traceback."""

import subprocess
import sys
from pathlib import Path

import studies
from studies.__main__ import STUDIES

ROOT = Path(__file__).parent.parent.parent


def call(*words):
    return subprocess.run([sys.executable, "-m", "studies", *words], cwd=ROOT, capture_output=True, text=True)


def test_the_package_is_not_the_folder_of_its_tests():
    assert Path(studies.__file__) == ROOT / "studies" / "__init__.py"


def test_without_a_name_the_studies_are_listed():
    listed = call()
    assert listed.returncode == 0, listed.stderr
    for study in STUDIES:
        assert f" {study.__name__.replace('_', '-')} " in listed.stdout


def test_a_mistake_is_one_line():
    wrong = call("accuracy", "--data", "mnst")
    assert wrong.returncode == 1
    assert "error: --data takes one of mnist, fashion" in wrong.stderr and "Traceback" not in wrong.stderr
    assert call("table9").returncode == 2
