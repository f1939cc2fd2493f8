"""`hydragrad reproduce ...`: the paper's tables and figures, and public protocols, one a file."""

import typer

from hydragrad.cli.reproduce.accuracy import accuracy
from hydragrad.cli.reproduce.bae import bae
from hydragrad.cli.reproduce.damping import damping
from hydragrad.cli.reproduce.dattri import dattri
from hydragrad.cli.reproduce.error import error
from hydragrad.cli.reproduce.estimators import estimators
from hydragrad.cli.reproduce.extremes import table1, table2
from hydragrad.cli.reproduce.figure1 import figure1
from hydragrad.cli.reproduce.hara import hara
from hydragrad.cli.reproduce.label_errors import label_errors
from hydragrad.cli.reproduce.settling import settling
from hydragrad.cli.reproduce.table4 import table4
from hydragrad.cli.reproduce.trust import trust
from hydragrad.cli.reproduce.weights import weights

reproduce = typer.Typer(no_args_is_help=True, help="The paper's tables and figures, measured again.")
STUDIES = (
    *(figure1, table1, table2, table4, damping, weights, accuracy),
    *(label_errors, trust, error, estimators, settling, hara, dattri, bae),
)
for study in STUDIES:
    reproduce.command()(study)
