"""`python -m studies`: lists the studies; `python -m studies NAME --help` says what one takes."""

from collections.abc import Callable

import typer

from hydragrad.cli.console import person_friendly, run_app
from studies.accuracy import accuracy
from studies.adam import adam
from studies.bae import bae
from studies.cleaning import cleaning
from studies.convergence import convergence
from studies.damping import damping
from studies.dattri import dattri
from studies.error import error
from studies.estimators import estimators
from studies.extremes_tables import table1, table2
from studies.figure1 import figure1
from studies.groups import groups
from studies.hara import hara
from studies.label_errors import label_errors
from studies.libraries import libraries
from studies.offset import offset
from studies.ranking import ranking
from studies.rounding import rounding
from studies.table4 import table4
from studies.targets import targets
from studies.trust import trust
from studies.weights import weights

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The paper's tables and figures, and public protocols, measured again.",
)

STUDIES: tuple[Callable[..., None], ...] = (
    *(figure1, table1, table2, table4, damping, weights, ranking, accuracy, cleaning),
    *(label_errors, trust, error, estimators, convergence, hara, dattri, bae, adam, libraries),
    *(offset, rounding, targets, groups),
)
for study in STUDIES:
    app.command()(study)


@app.callback(invoke_without_command=True)
def _top(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run a study. Exit codes as those of `hydragrad`."""
    with person_friendly():
        run_app(app)


if __name__ == "__main__":
    main()
