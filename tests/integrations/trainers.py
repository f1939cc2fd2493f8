"""Hugging Face Trainers over tiny models built from a config, and the same training with a weight on every sample."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging

logging.set_verbosity_error()

SAMPLES, WORDS, CLASSES = 14, 20, 3


def items(count: int = SAMPLES, seed: int = 0, *, language: bool = False) -> list[dict[str, Any]]:
    """Sequences of different lengths, with a column that no model takes."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number in range(count):
        length = int(torch.randint(3, 8, (1,), generator=generator))
        words = torch.randint(3, WORDS, (length,), generator=generator).tolist()
        labels = [-100, *words[1:]] if language else int(torch.randint(CLASSES, (1,), generator=generator))
        made.append({"input_ids": words, "attention_mask": [1] * length, "labels": labels, "text": "-" * number})
    return made


def padded(batch: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Dynamic padding, as transformers' collators do it."""
    longest = max(len(item["input_ids"]) for item in batch)

    def column(name: str, filling: int) -> Tensor:
        return torch.tensor([[*item[name], *[filling] * (longest - len(item[name]))] for item in batch])

    made = {"input_ids": column("input_ids", 0), "attention_mask": column("attention_mask", 0)}
    language = isinstance(batch[0]["labels"], list)
    made["labels"] = column("labels", -100) if language else torch.tensor([item["labels"] for item in batch])
    if "index" in batch[0]:
        made["index"] = torch.tensor([item["index"] for item in batch])
    return made


def bert(**options: Any) -> BertForSequenceClassification:
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    dropped = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    torch.manual_seed(1)
    config = BertConfig(vocab_size=WORDS, max_position_embeddings=8, num_labels=CLASSES, **sizes, **dropped | options)
    return BertForSequenceClassification(config).double()


def distilbert() -> DistilBertForSequenceClassification:
    torch.manual_seed(1)
    sizes = {"dim": 8, "hidden_dim": 12, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 8}
    dropped = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
    config = DistilBertConfig(vocab_size=WORDS, num_labels=CLASSES, **sizes, **dropped)
    return DistilBertForSequenceClassification(config).double()


def gpt2(dropout: float = 0.0) -> GPT2LMHeadModel:
    torch.manual_seed(1)
    sizes = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 8}
    dropped = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, **sizes, **dropped, **ends)).double()


ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}


def bart(*, tied: bool = False) -> BartForConditionalGeneration:
    torch.manual_seed(1)
    encoder = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 12}
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 12}
    sizes = {"d_model": 8, "max_position_embeddings": 8, "dropout": 0.0, "forced_eos_token_id": None}
    config = BartConfig(vocab_size=WORDS, tie_word_embeddings=tied, **sizes, **encoder, **decoder, **ENDS)
    return BartForConditionalGeneration(config).double()


def t5() -> T5ForConditionalGeneration:
    """In float32, as which it computes its norms in any case."""
    torch.manual_seed(1)
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    return T5ForConditionalGeneration(T5Config(vocab_size=WORDS, **sizes, **ENDS))


BUILD = {"bert": bert, "distilbert": distilbert, "gpt2": gpt2, "bart": bart, "t5": t5}


def data(name: str, count: int = SAMPLES, seed: int = 0) -> list[dict[str, Any]]:
    return items(count, seed, language="bert" not in name)


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    """What a user leaves as it is stays as it is: fused AdamW, linear schedule, clipping at 1."""
    quiet = {"report_to": [], "disable_tqdm": True, "logging_strategy": "no", "save_strategy": "no", "use_cpu": True}
    sizes = {"num_train_epochs": 2, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
    chosen = quiet | sizes | {"learning_rate": 5e-3, "weight_decay": 0.01, "dataloader_pin_memory": False} | options
    return TrainingArguments(str(folder / "trainer"), **chosen)


def build_trainer(name: str, folder: Path, model: Any = None, **options: Any) -> Trainer:
    made = BUILD[name]() if model is None else model
    sets = {"train_dataset": data(name), "eval_dataset": data(name, 6, seed=4)}
    return Trainer(made, arguments(folder, **options), data_collator=padded, **sets)


class Weighted(Trainer):
    """Trains with a weight on every sample's loss, written out."""

    weights: Tensor

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        index = inputs.pop("index")
        losses, tokens = written_out(model, inputs)
        whole = {"bert": len(index), "gpt2": num_items_in_batch, "bart": tokens}[
            model.config.model_type.removeprefix("distil")
        ]
        return (self.weights[index] * losses).sum() / whole


def written_out(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, int | None]:
    """Losses of a batch, token by token, and how many tokens there are."""
    labels, decoder = inputs["labels"], model.config.is_encoder_decoder
    logits = model(**inputs if decoder else {name: value for name, value in inputs.items() if name != "labels"}).logits
    if labels.dim() == 1:
        return torch.stack([F.cross_entropy(row, label) for row, label in zip(logits, labels, strict=True)]), None
    sums, count = [], 0
    for row, label in zip(logits, labels, strict=True):
        row, label = (row, label) if decoder else (row[:-1], label[1:])
        real = label != -100
        sums.append(-row.log_softmax(1)[real, label[real]].sum())
        count += int(real.sum())
    return torch.stack(sums), count


def retrain(name: str, folder: Path, weights: Tensor, **options: Any) -> Any:
    """The trained model, where every sample's loss had a weight."""
    train_set = [item | {"index": index} for index, item in enumerate(data(name))]
    settings = arguments(folder, remove_unused_columns=False, **options)
    trainer = Weighted(BUILD[name](), settings, train_dataset=train_set, data_collator=padded)
    trainer.weights = weights
    trainer.train()
    return trainer.model
