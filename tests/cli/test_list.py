"""The list of commands: complete, as their modules say, and there without torch, which takes seconds."""

import importlib
import inspect
import subprocess
import sys

import hydragrad
from documents import ROOT
from hydragrad.cli.app import COMMANDS

PROGRAM = """
import sys
sys.argv = ["hydragrad", *sys.argv[1:]]
try:
    import hydragrad.cli
    hydragrad.cli.main()
finally:
    sys.stderr.write(" ".join(name for name in ("torch", "pandas", "scipy") if name in sys.modules))
"""


def listed(*words):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    return " ".join(result.stdout.split()), result.stderr


def test_the_list_needs_no_torch_and_says_what_every_command_says_of_itself():
    for words in ((), ("--help",), ("-h",)):
        out, err = listed(*words)
        assert "torch" not in err and "pandas" not in err and "scipy" not in err, words
        words_of_out = out.replace("│", "").split()
        for command in COMMANDS:
            function = getattr(importlib.import_module(f"hydragrad.cli.commands.{command}"), command)
            first = (inspect.getdoc(function) or "").split("\n")[0]
            assert (
                first
                and f"{command} {first}".split()
                == [w for w in words_of_out if w][words_of_out.index(command, words_of_out.index("Commands")) :][
                    : len(first.split()) + 1
                ]
            )
    assert f"hydragrad {hydragrad.__version__}" in listed("--version")[0]


def test_every_module_of_a_command_is_in_the_list():
    helpers = {"demo_text", "demo_check"}
    files = {file.stem for file in (ROOT / "src/hydragrad/cli/commands").glob("*.py")} - {"__init__"} - helpers
    assert files == set(COMMANDS)


def test_importing_the_package_imports_no_torch_until_a_name_is_used():
    program = "import sys, hydragrad as hg; print('torch' in sys.modules); hg.Scores; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.split() == ["False", "True"]
