"""Per-sample losses of Hugging Face models, from their logits: one number a sequence, and which tokens it is made of.

Sequence classification: its cross-entropy, squared error or binary cross-entropies. Language models: the sum over the
sequence's tokens, where label -100 is ignored; what a model's own loss averages over is left to the reduction.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydragrad.derivatives import LossOfParts, Terms, chunked_cross_entropy
from hydragrad.errors import LossError, Unsupported

IGNORED = -100
Kind = Literal["next token", "tokens", "sequence"]
KINDS: dict[str, Kind] = {
    "ForCausalLM": "next token",
    "ForConditionalGeneration": "tokens",
    "ForMaskedLM": "tokens",
    "ForSequenceClassification": "sequence",
    "ForImageClassification": "sequence",
    "ForTokenClassification": "tokens",
}
"""By the name that transformers gives to a model's loss."""


@dataclass(frozen=True)
class SequenceLosses(LossOfParts):
    """`loss(model, batch)` of a Hugging Face model whose batches are mappings with `labels`.

    Its parts are the tokens that are predicted: of causal models part p is token p + 1. A sequence that is classified
    is one part.

    Attributes:
        kind: What the labels are: of the next token, of every token, or of the whole sequence.
        problem: Of a sequence: "regression", "single_label_classification" or "multi_label_classification".
        with_labels: Whether the model needs the labels for its logits, as encoder-decoders do.
        caches: Whether the model returns a cache for generation unless it is told not to.
        chunk: Positions whose logits exist at the same time, of a causal model; None for all.
    """

    kind: Kind
    problem: str | None = None
    with_labels: bool = False
    caches: bool = False
    chunk: int | None = None

    def terms(self, model: Any, batch: Mapping[str, Any]) -> Terms:
        """The losses of tokens, (batch, tokens), whose sums are those of sequences."""
        if batch.get("labels") is None:
            raise LossError(
                f"The model's own loss must come from the batch's labels; the batch has {sorted(batch)}. Give "
                f"record(..., loss=...): loss(model, batch) returns one number a sample."
            )
        labels = batch["labels"]
        inputs = {name: value for name, value in batch.items() if self.with_labels or name != "labels"}
        options = {"use_cache": False} if self.caches else {}
        if self.chunk is not None:
            with _without_head(model) as weight:
                hidden = model(**inputs, **options)["logits"]
            every = chunked_cross_entropy(hidden[:, :-1], weight, labels[:, 1:], chunk=self.chunk, ignore_index=IGNORED)
            return Terms(every, labels[:, 1:] != IGNORED, None)
        logits = _full_precision(model(**inputs, **options)["logits"])
        if self.kind == "sequence":
            losses = _of_sequence(logits, labels, self.problem)[:, None]
            return Terms(losses, torch.ones_like(losses, dtype=torch.bool), None)
        if self.kind == "next token":
            logits, labels = logits[:, :-1], labels[:, 1:]
        every = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        return Terms(every, labels != IGNORED, None)

    def tokens(self, batch: Mapping[str, Any]) -> int | None:
        """Labels of a batch that count; None where a sequence has one loss."""
        if self.kind == "sequence":
            return None
        labels = batch["labels"][:, 1:] if self.kind == "next token" else batch["labels"]
        return int((labels != IGNORED).sum())


def sequence_losses(model: nn.Module, chunk: int | None = None) -> SequenceLosses:
    """The per-sample loss of a Hugging Face model.

    Args:
        model: The model.
        chunk: Of a causal language model, positions whose logits exist at the same time; None for all.

    Raises:
        Unsupported: Its own loss is none of those known here, or a chunk and no plain head of a causal model.
    """
    inner = _inside(model)
    config: Any = getattr(inner, "config", None)
    decodes = bool(getattr(config, "is_encoder_decoder", False))
    name = type(inner).__name__
    kind = _kind(inner, decodes=decodes)
    if config is None or kind is None:
        raise Unsupported(
            f"The per-sample loss must be given for a {name}; it is known for classification of sequences, images and "
            f"tokens, and for causal, masked and encoder-decoder language models. Give record(..., loss=...): "
            f"loss(model, batch) returns one number a sample."
        )
    problem = getattr(config, "problem_type", None)
    if problem is None and getattr(config, "num_labels", 2) == 1:
        problem = "regression"
    if chunk is not None:
        _require_plain_head(inner, kind, chunk)
    return SequenceLosses(
        kind,
        problem if kind == "sequence" else None,
        with_labels=decodes and kind == "tokens",
        caches="use_cache" in inspect.signature(inner.forward).parameters,
        chunk=chunk,
    )


def _inside(model: Any) -> Any:
    """The model inside of peft's."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _require_plain_head(model: Any, kind: Kind, chunk: int) -> None:
    """Refuse a chunk where the logits are no plain product with a weight.

    Raises:
        Unsupported: Says why.
    """
    head = model.get_output_embeddings() if kind == "next token" else None
    if type(head) is not nn.Linear or head.bias is not None or chunk < 1:
        raise Unsupported(
            f"chunk= is a number of positions, 1 or more, of a causal language model whose head is a Linear without "
            f"bias; got {chunk} and a {type(model).__name__} with the head {type(head).__name__}. Leave it out."
        )


@contextmanager
def _without_head(model: Any) -> Iterator[Tensor]:
    """Have a model return what its head reads in place of logits; yields the head's weight.

    What a model does to its logits afterwards it does to the hidden states. Scaling comes to the same; of anything else
    the loss is another one than the Trainer's, which is seen at the first step.
    """
    head = _inside(model).get_output_embeddings()
    head.forward = lambda hidden: hidden
    try:
        yield head.weight
    finally:
        del head.forward


def _kind(model: Any, *, decodes: bool) -> Kind | None:
    name = type(model).__name__
    for ending, kind in KINDS.items():
        if name.endswith(ending) or getattr(model, "loss_type", None) == ending:
            return "tokens" if kind == "next token" and decodes else kind
    return "next token" if name.endswith("LMHeadModel") else None


def _full_precision(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _of_sequence(logits: Tensor, labels: Tensor, problem: str | None) -> Tensor:
    if problem is None:
        problem = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
    if problem == "single_label_classification":
        return F.cross_entropy(logits, labels.reshape(-1), reduction="none")
    if problem == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)
    if problem == "regression":
        return (logits - labels.reshape(logits.shape)).square().mean(1)
    raise LossError(f"The model's config must have a problem_type of transformers, got {problem!r}. Correct it.")
