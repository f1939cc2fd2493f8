"""What a person sees: one look, on wide and narrow terminals, in files, with and without colour."""

import io
import re
import shlex

import pytest
import typer
from rich.console import Console
from typer.main import get_command

from documents import APPLICATIONS, parse
from hydragrad.cli import console

PATH = "runs/" + "/".join(["a-rather-long-folder"] * 6)


@pytest.fixture
def screen(monkeypatch):
    """A terminal of a given width."""

    def of(width, **options):
        file = io.StringIO()
        options = {"force_terminal": True, "color_system": "truecolor"} | options
        monkeypatch.setattr(console, "console", Console(file=file, width=width, highlight=False, **options))
        return file

    monkeypatch.setenv("TERM", "xterm-256color")
    return of


def lines(file):
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_break_between_words_and_never_inside_a_path(screen, width):
    file = screen(width)
    console.say(f"the page of this run, which has a long name, was written: {PATH} and nothing else")
    assert PATH in lines(file)
    assert all(len(line) <= width for line in lines(file) if line != PATH)
    assert " ".join("".join(f"{line} " for line in lines(file)).split()).endswith("and nothing else")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_tables_stay_within_the_terminal(screen, width):
    file = screen(width)
    console.table("written", {"scores": PATH, "share": "[bold]10.0 %[/bold]"})
    console.columns("numbers", ("name", "value"), [("first", "1.5"), ("second", "22.25")], left=["name"])
    assert max(len(line.rstrip()) for line in lines(file)) <= width
    assert any("[bold]10.0 %[/bold]" in line for line in lines(file)), "text is shown as it is"
    numbers = [line.rstrip() for line in lines(file) if re.match("first|second", line)]
    assert numbers[0].endswith(" 1.5") and len(numbers[0]) == len(numbers[1]), "numbers end in one column"


def test_files_get_whole_lines_and_no_colour(screen):
    file = screen(80, force_terminal=False, color_system="auto")
    console.table("written", {"scores": PATH * 3})
    console.say("word " * 60)
    assert any(PATH * 3 in line for line in lines(file))
    assert "word " * 59 in file.getvalue()
    assert "\x1b" not in file.getvalue()


def test_no_color_has_no_colours(screen, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    file = screen(80)
    console.table("written", {"scores": "[red]here"})
    assert not re.search(r"\x1b\[[0-9;]*(3|4|9)[0-9]", file.getvalue())


def commands():
    def walk(command, context, path):
        if hasattr(command, "list_commands"):
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                yield from walk(below, typer.Context(below, info_name=name, parent=context), [*path, name])
        else:
            yield pytest.param(command, id=" ".join(path))

    for start, app in APPLICATIONS.items():
        top = get_command(app)
        yield from walk(top, typer.Context(top, info_name=" ".join(start)), [])


@pytest.mark.parametrize("command", list(commands()))
def test_every_command_can_be_quiet_and_gives_an_example_that_it_understands(command):
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--quiet", "--json"} <= options
    example = re.search(r"^Example: (.*)", command.help, flags=re.MULTILINE)
    assert example, "an example in its help"
    words = shlex.split(example[1])
    assert command.name in words
    parse(words)
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{parameter.name} says what it is"


@pytest.mark.parametrize("wrong", ["a file in the way", "a folder"])
def test_places_that_can_not_be_used_are_named_in_one_line(tmp_path, capsys, wrong):
    place = tmp_path / "place"
    with pytest.raises(SystemExit) as ended, console.person_friendly():
        if wrong == "a folder":
            place.mkdir()
            place.write_text("figures")
        else:
            place.write_text("figures")
            (place / "run").mkdir()
    assert ended.value.code == 1
    message = capsys.readouterr().err.replace("\n", " ")
    assert str(place) in message.replace(" ", "") and "Name another place" in message


def test_other_faults_of_the_system_are_not_hidden():
    with pytest.raises(TimeoutError), console.person_friendly():
        raise TimeoutError(110, "Connection timed out")
