"""The command line: parse, call, print.

app                the command line as a whole
commands           one command a file: its options, its job, its words
options            options that several commands share
forecast           time, memory and disk before long jobs
console            what a person sees: lines, tables, errors without tracebacks
terminal_pictures  small pictures in a terminal
terminal_texts     texts in a terminal
marked_tokens      texts with their tokens marked by contribution
"""

from hydragrad.cli.console import person_friendly, run_app


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 a mistake that the message explains, 2 usage, 130 Ctrl-C."""
    with person_friendly():
        from hydragrad.cli.app import app  # slow: it imports torch

        run_app(app)
