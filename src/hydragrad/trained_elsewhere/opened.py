"""Checkpoints: states of a model trained elsewhere, opened with model, loss and training set."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hydragrad.derivatives import Evaluator, Layout, PerSampleLoss, bare_model, copy_of, require_differentiable
from hydragrad.derivatives.loss_module import check_losses
from hydragrad.disk import content_digest
from hydragrad.errors import CheckpointError, HydragradError, LossError, NonFinite
from hydragrad.randomness import preserved
from hydragrad.replay import fetch, require_map_style
from hydragrad.replay.data import Collate
from hydragrad.runs import Checkpoint
from hydragrad.runs.buffers import put_state
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere.fitting import Slots
from hydragrad.trained_elsewhere.state_files import read_state, state_in

State = Mapping[str, Any] | str | Path


class Checkpoints:
    """A model trained elsewhere: its states at some points of the training, in order; the last one is the model.

    For `hg.influence`, `hg.suspects` and `hg.report`, which need weights alone. What repeats the training needs a
    recorded run. Several states predict what was learned from a sample better than the last one alone.

    Args:
        states: In order of training, each one a state dict (copied; `model.state_dict()` shares memory with a model
            that trains on, so copy it when you take it), a .safetensors file, a file that torch.save wrote (a state
            dict, or a dict that has it as `state_dict`, `model_state_dict` or `model`, as Lightning's .ckpt), or a
            Hugging Face folder. Files are read with `weights_only=True`: code in them is never run.
        model: A model of the same architecture; its weights may be anything, and it is never changed. Parameters
            that require no gradient count as frozen.
        loss: Per-sample losses of a batch, as in training.
        train_set: What it was trained on.
        collate: Makes a batch of items; torch's default if None.

    Attributes:
        names: What each state is called: its file's name, or state 1, state 2, ...
        digests: Digest of each state's weights and buffers, which scores carry.

    Raises:
        CheckpointNotFound: A file that is not there.
        CheckpointError: A state that can't be read without running code, or does not fit the model (it names what is
            missing, unexpected, or of another shape); two equal states, or none.
        LossError: The loss is not one number a sample, or does not take these data.
        NonFinite: NaN or infinity in the weights, or in the loss.
        Unsupported: A model whose derivatives would be noise (half precision), or that can't be copied.
        DataError: No map-style data set, or an empty one.

    Cost: reads every state once when opened, and once more when it is used; one of them is in memory at a time.
    """

    @in_clean_surroundings
    def __init__(
        self,
        states: State | Sequence[State],
        model: nn.Module,
        loss: PerSampleLoss,
        train_set: Dataset[Any],
        *,
        collate: Collate | None = None,
    ) -> None:
        sources, model = _sources(states), bare_model(model)
        require_differentiable(model)
        require_map_style(train_set)
        self.model, self.loss, self.train_set, self.collate_fn = model, loss, train_set, collate
        self.device = next(model.parameters()).device
        self.layout = Layout({name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad})
        if not self.layout.size:
            raise CheckpointError("No parameter of the model requires a gradient. Unfreeze those that were trained.")
        self._slots = Slots(model)
        self._parameters = [name for name, _ in model.named_parameters()]
        self._buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        self.names = _names(sources)
        # State dicts are copied, files are read again: of files, one is in memory at a time.
        self._sources: list[dict[str, Tensor] | Path] = []
        digests = []
        for source, name in zip(sources, self.names, strict=True):
            fitted = self._read(source, name)
            self._sources.append(source if isinstance(source, Path) else fitted)
            digests.append(content_digest(fitted, {}))
        self.digests = tuple(digests)
        self._require_distinct()
        self._require_loss()

    def __len__(self) -> int:
        """How many states there are."""
        return len(self._sources)

    @property
    def digest(self) -> str:
        """Digest of all states, which names these checkpoints and no others."""
        return hashlib.sha256("".join(self.digests).encode()).hexdigest()

    def spread(self, count: int) -> list[int]:
        """Numbers of up to `count` states, evenly spread, the last one among them."""
        return sorted({max(1, round(len(self) * part / count)) - 1 for part in range(1, count + 1)})

    def at(self, number: int) -> Checkpoint:
        """The state of a number from 0, in order of training.

        Raises:
            CheckpointError: The file has changed since it was opened.
        """
        source = self._sources[number]
        state = self._read(source, self.names[number]) if isinstance(source, Path) else source
        if isinstance(source, Path) and content_digest(state, {}) != self.digests[number]:
            raise CheckpointError(f"{source} has changed since it was opened. Open the checkpoints again.")
        buffers = {name: state.get(name, value) for name, value in self._buffers.items()}
        return Checkpoint(number, {name: state[name] for name in self._parameters}, buffers, {})

    @cached_property
    @in_clean_surroundings
    def final(self) -> Checkpoint:
        """The last state."""
        return self.at(len(self) - 1)

    @in_clean_surroundings
    def trained_model(self) -> nn.Module:
        """A copy of the model with the last state's weights and buffers, in eval mode."""
        return self.model_at(self.final)

    def model_at(self, checkpoint: Checkpoint) -> nn.Module:
        """A copy of the model with a state's weights and buffers, in eval mode."""
        with preserved():
            copied = copy_of(self.model)
        put_state(copied, checkpoint.parameters | checkpoint.buffers)
        return copied.eval().requires_grad_(False)

    @in_clean_surroundings
    def collate(self, indices: Sequence[int]) -> Any:
        """Fetch samples of the training set."""
        return fetch(self.train_set, indices, seed=0, collate=self.collate_fn, device=self.device)

    def _read(self, source: Mapping[str, Any] | Path, name: str) -> dict[str, Tensor]:
        state = read_state(source) if isinstance(source, Path) else state_in(source, name)
        return self._slots.fit(state, str(source) if isinstance(source, Path) else name)

    def _require_distinct(self) -> None:
        first: dict[str, int] = {}
        for number, digest in enumerate(self.digests):
            if first.setdefault(digest, number) != number:
                raise CheckpointError(
                    f"Checkpoints must differ; {self.names[first[digest]]} and {self.names[number]} hold the same "
                    f"weights. Name each once; where they are state dicts of a model that trained on, copy them: "
                    f"{{name: value.clone() for name, value in model.state_dict().items()}}."
                )

    def _require_loss(self) -> None:
        """Evaluate the loss of a few samples at the last state: another model or loss shows early.

        Raises:
            LossError: It is not one number a sample, or does not take these data.
            NonFinite: It is NaN or infinite.
        """
        indices = list(range(min(2, len(self.train_set))))  # type: ignore[arg-type]
        try:
            with preserved(), torch.no_grad():
                losses = Evaluator(self.loss)(self.trained_model(), self.collate(indices))
        except HydragradError:
            raise
        except Exception as error:
            raise LossError(
                f"The loss must take the model and a batch of the training set; of samples {indices} there was: "
                f"{type(error).__name__}: {error}. Give the loss, the data and the collate= of the training."
            ) from error
        check_losses(losses, len(indices))
        if not losses.isfinite().all():
            raise NonFinite(
                f"The losses of samples {indices} at {self.names[-1]} are {losses.tolist()}; they must be finite. Give "
                f"the loss and the data that the model was trained with."
            )


def _sources(states: State | Sequence[State]) -> list[Mapping[str, Any] | Path]:
    every = list(states) if isinstance(states, Iterable) and not isinstance(states, Mapping | str) else [states]
    if not every:
        raise CheckpointError("hg.Checkpoints takes one state or more, got none. Name them in the order of training.")
    for state in every:
        if not isinstance(state, Mapping | str | Path):
            raise CheckpointError(
                f"A state is a state dict, or the path of a file or folder; got a {type(state).__name__}. Of a model, "
                f"give model.state_dict()."
            )
    return [state if isinstance(state, Mapping) else Path(state).absolute() for state in every]


def _names(sources: Sequence[Mapping[str, Any] | Path]) -> tuple[str, ...]:
    """Names of files, as long as they must be to differ; numbers of others."""
    short = [source.name for source in sources if isinstance(source, Path)]
    return tuple(
        f"state {number}"
        if not isinstance(source, Path)
        else (source.name if short.count(source.name) == 1 else str(source))
        for number, source in enumerate(sources, start=1)
    )
