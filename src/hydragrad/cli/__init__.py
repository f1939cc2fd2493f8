"""The command line: parse, call, print.

app         the commands
jobs        what they do: train, attribute, clean
demo        the main job on an embedded data set
experiment  data, model and loss, from names or from the user's own function
recipes     how the data sets known by name are trained
forecast    time, memory and disk before long jobs
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
