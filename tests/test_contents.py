"""The docstring of a package lists exactly what its folder holds, that of the root package what is public."""

import ast
import inspect
import re

import pytest

import hydragrad
from documents import ROOT

SOURCE = ROOT / "src" / "hydragrad"
ROOMS = [*sorted(file.parent for file in SOURCE.glob("*/**/__init__.py")), ROOT / "benchmarks", ROOT / "faults"]
ENTRY = re.compile(r"([a-z][a-z0-9_]*) +\S")


def listed(docstring):
    """Names of the entries `name  what it is` in the paragraphs after the first; indented lines continue an entry."""
    paragraphs = [paragraph.splitlines() for paragraph in docstring.split("\n\n")[1:]]
    tables = [[line for line in lines if not line.startswith(" ")] for lines in paragraphs]
    return [match[1] for lines in tables if all(map(ENTRY.match, lines)) for match in map(ENTRY.match, lines)]


def contents(folder):
    """Names of the modules and packages of a folder."""
    modules = [file.stem for file in folder.glob("*.py") if not file.stem.startswith("__")]
    return modules + [file.parent.name for file in folder.glob("*/__init__.py")]


@pytest.mark.parametrize("room", [pytest.param(room, id=room.relative_to(ROOT).as_posix()) for room in ROOMS])
def test_the_docstring_of_a_package_lists_its_modules_and_packages(room):
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text()))
    assert sorted(listed(docstring)) == sorted(contents(room))


def test_the_root_package_lists_its_public_names_by_purpose():
    public = [name for name in hydragrad.__all__ if not inspect.ismodule(getattr(hydragrad, name))]
    table = re.findall(r"^[A-Z]\w+ +([^:\n]+):", hydragrad.__doc__, flags=re.MULTILINE)
    entries = [name for names in table for name in names.split(", ")]
    assert len(public) > 15 and sorted(entries) == sorted(public)


def test_no_public_name_is_a_package_too():
    rooms = {room.name for room in ROOMS if room.parent == SOURCE}
    assert len(rooms) > 10
    assert not [name for name in rooms if not inspect.ismodule(getattr(hydragrad, name, inspect))]


def test_entries_are_distinguished_from_prose():
    prose = "A room.\n\nProse about it, which goes on\nin lower case.\n\n"
    assert listed(prose + "one    the first,\n       continued\nsecond the second") == ["one", "second"]
    assert listed(prose) == []
