"""A model trained elsewhere, opened with what a user's own `module:function` returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from hydragrad.checkpoint_rows import InfluenceStore, influence_rows
from hydragrad.checkpoint_rows.plan import ROWS
from hydragrad.errors import DataError, QueryError
from hydragrad.experiments.named_query import NamedQuery
from hydragrad.experiments.own_function import function_named
from hydragrad.replay import require_map_style
from hydragrad.scores import Query, mean_loss, sample_losses
from hydragrad.trained_elsewhere import Checkpoints


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """Checkpoints, and the data sets that queries are about.

    Attributes:
        checkpoints: The states, opened.
        held_out: Data sets by name: validation, test.
    """

    checkpoints: Checkpoints
    held_out: Mapping[str, Dataset[Any]]

    def rows(self, folder: Path, *, checkpoints: int, damping: float | None, projection: int | None) -> InfluenceStore:
        """The rows of a folder: those that are there, or made, or resumed.

        Args:
            folder: Where they lie.
            checkpoints, damping, projection: As `hg.influence_rows` takes them.

        Raises:
            QueryError: Finished rows of other checkpoints, or made with other options.
        """
        options = {"damping": damping, "projection": projection}
        if not (folder / ROWS).exists():
            return influence_rows(
                self.checkpoints, checkpoints=checkpoints, damping=damping, projection=projection, store=folder
            )
        opened = self.checkpoints
        store = InfluenceStore.open(folder, opened.model, opened.loss, collate=opened.collate_fn)
        wanted = tuple(opened.digests[number] for number in opened.spread(checkpoints))
        theirs = {"damping": store.plan.damping, "projection": (store.plan.projection or {}).get("dims")}
        different = [name for name, value in options.items() if value is not None and value != theirs[name]]
        different += [] if store.evidence.states == wanted else ["checkpoints"]
        if different:
            raise QueryError(
                f"{folder} holds rows that differ in: {', '.join(different)}. Name another folder, or leave these "
                f"options out."
            )
        return store

    def query(self, text: str) -> Query:
        """Return the query named on the command line: `validation`, `test`, `train`, or one sample, `test:42`.

        Raises:
            QueryError: No such data set, or no such sample.
        """
        every = {**self.held_out, "train": self.checkpoints.train_set}
        named = NamedQuery.parse(text, every)
        samples = every[named.data_set]
        if named.sample is not None:
            return sample_losses(samples, [named.sample])
        return mean_loss(samples, name=f"{named.data_set} loss")


def open_elsewhere(source: str, states: Sequence[Path]) -> Elsewhere:
    """Call the user's function for model, loss and data, and open the states.

    Args:
        source: `module:function`; the function returns (model, loss, train_set), or what `hydragrad train` takes:
            (model, loss, train_set, optimizer), and optionally a dict of held-out data sets as the last one.
        states: Files or folders, in order of training.

    Raises:
        UnknownName: There is no such module or function.
        DataError: The function returned something else.
        CheckpointError, CheckpointNotFound: As `hg.Checkpoints`.
    """
    model, loss, train_set, held_out = _parts(source, function_named(source))
    return Elsewhere(checkpoints=Checkpoints(list(states), model, loss, train_set), held_out=held_out)


def _parts(source: str, function: Callable[[], Any]) -> tuple[Any, Any, Any, Mapping[str, Any]]:
    result = function()
    if not isinstance(result, tuple) or not 3 <= len(result) <= 5:
        size = f"{len(result)} things" if isinstance(result, tuple) else f"a {type(result).__name__}"
        raise DataError(
            f"{source} must return (model, loss, train_set), optionally followed by an optimizer, which is not used, "
            f"and by a dict of held-out data sets such as {{'validation': ...}}; it returned {size}."
        )
    model, loss, train_set, *rest = result
    held_out = rest[-1] if rest and isinstance(rest[-1], Mapping) else {}
    required = ((isinstance(model, nn.Module), "a torch.nn.Module", model), (callable(loss), "a function", loss))
    for number, (holds, kind, returned) in enumerate(required):
        if not holds:
            name = ("model", "loss")[number]
            raise DataError(f"The {name} that {source} returns must be {kind}, got a {type(returned).__name__}.")
    for name, samples in {"train_set": train_set, **held_out}.items():
        require_map_style(samples, f"data set {name!r} that {source} returned")
    return model, loss, train_set, held_out
