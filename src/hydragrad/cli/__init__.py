"""The command line: parse, call, print.

app         the command line as a whole
commands    one command a file
reproduce   the paper's tables and figures, one a file
options     what several commands share
jobs        what they do: train, attribute, clean
demo        the main job on an embedded data set
explain     one prediction and the training samples that moved it
experiment  data, model and loss, from names or from the user's own function
forecast    time, memory and disk before long jobs
showing     what commands found
console     what a person sees
"""

import sys

from hydragrad.cli.console import person_friendly


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 a mistake that the message explains, 2 usage, 130 Ctrl-C."""
    with person_friendly():
        import typer

        from hydragrad.cli.app import app

        try:
            code = app(standalone_mode=False)
        except typer.Abort:
            raise KeyboardInterrupt from None
        except Exception as error:
            if not (hasattr(error, "show") and hasattr(error, "exit_code")):
                raise
            error.show()  # a usage error of typer's, whose base class it does not export
            code = error.exit_code
        sys.exit(code if isinstance(code, int) else 0)
