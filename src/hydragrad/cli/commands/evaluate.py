"""`hydragrad evaluate`."""

from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hydragrad.cli.console import say, table, write_json
from hydragrad.cli.options import Json, Quiet
from hydragrad.errors import QueryError
from hydragrad.experiments.score_files import read_scores
from hydragrad.progress import quiet
from hydragrad.scores import Scores
from hydragrad.trust import Bank, Evaluation, top_overlap
from hydragrad.trust import evaluate as evaluate_scores

MEASURES = ("lds", "slope", "scale", "cross_seed_lds", "loo_pearson", "loo_spearman", "groups")


def evaluate(
    bank: Annotated[Path, typer.Argument(metavar="BANK", help="File that `hydragrad bank` wrote.")],
    files: Annotated[
        list[Path],
        typer.Argument(metavar="SCORES...", help="Scores of hydragrad (.safetensors), or matrices (.npy, .pt)."),
    ],
    rows: Annotated[
        Literal["queries", "samples"] | None,
        typer.Option(help="What the rows of matrices are, where their shape does not say it."),
    ] = None,
    effect_of: Annotated[
        Literal["removal", "presence"],
        typer.Option(
            help="What a number of a matrix is: what the query rises by without the sample (removal), or with it."
        ),
    ] = "removal",
    top: Annotated[int, typer.Option(min=1, help="Samples whose overlap between several files is shown.")] = 20,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Hold scores of any library against a bank of real retrainings.

    Nothing is trained: it takes the bank and the files alone. Queries and samples of hydragrad's scores are matched by
    name and number; the rows of a matrix are the queries of the bank, in their order.

    Example: hydragrad evaluate runs/m/bank.safetensors runs/m/scores/validation-ggn.safetensors tracin.npy
    """
    truth = Bank.open(bank)
    say(str(truth))
    every = {str(path): read_scores(path) for path in files}
    figures: dict[str, Any] = {"bank": str(bank), "subsets": len(truth.left_out), "seeds": truth.seeds}
    for name, scores in every.items():
        own: dict[str, Any] = {} if isinstance(scores, Scores) else {"rows": rows, "effect_of": effect_of}
        with quiet(silent):
            found = evaluate_scores(scores, truth, **own)
        table(name, found.lines)
        figures |= _figures(name, found)
    figures |= _overlaps(every, truth, rows, effect_of, top)
    write_json(json, figures)


def _figures(name: str, found: Evaluation) -> dict[str, Any]:
    figures: dict[str, Any] = {f"{name} {measure}": getattr(found, measure) for measure in MEASURES}
    figures[f"{name} lds_low"], figures[f"{name} lds_high"] = found.lds_interval
    return figures | {f"ceiling {one.kind}": one.lds for one in found.ceilings}


def _overlaps(every: dict[str, Any], bank: Bank, rows: Any, effect_of: Any, top: int) -> dict[str, float]:
    """Print how far each pair of files has the same samples first."""
    found = {}
    for one, other in combinations(every, 2):
        pair = every[one], every[other]
        try:
            overlap = top_overlap(
                *pair, k=min(top, len(bank.sample_ids)), rows=rows, effect_of=(effect_of, effect_of), bank=bank
            )
        except QueryError as error:
            say(f"{one} and {other}: no overlap of their first samples: {error}")
            continue
        say(f"{one} and {other}: {overlap}")
        found[f"{one} and {other} overlap"] = overlap.mean
    return found
