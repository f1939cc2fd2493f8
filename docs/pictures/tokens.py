"""The report on a language model that was fine-tuned by LoRA: a Llama with random weights, on sixty sentences.

Needs a browser, as the pictures of `report` do, and transformers and peft.
"""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from report import DESKTOP, photographed
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

import hydragrad as hg
from hydragrad.integrations.transformers import record

SHOTS = {"text-tokens.png": ("lora", "suspects", DESKTOP)}
ANIMALS, VERBS = ("cat", "dog", "bird", "horse"), ("sat on", "ran to", "slept in", "looked at")
PLACES = ("the mat", "the garden", "the house", "the river")
TRAINED = 56
SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def make(pictures: Path, runs: Path) -> list[Path]:
    """Fine-tune, attribute, write the report, and look at it."""
    lines = [f"the {animal} {verb} {place}" for animal in ANIMALS for verb in VERBS for place in PLACES]
    lines[7] = "the river slept in cat the"
    tokenizer = _tokenizer(lines)
    items = [{name: tokenizer(f"{line}</s>")[name] for name in ("input_ids", "attention_mask")} for line in lines]
    trainer = _trainer(tokenizer, items[:TRAINED], runs)
    with record(trainer, runs / "run") as recorded:
        trainer.train()
    run = recorded.recording()
    query = hg.mean_loss(items[TRAINED:], "held-out loss", collate=trainer.data_collator)  # type: ignore[arg-type]
    scores = hg.attribute(run, query, curvature="hessian", parts=True)
    page = hg.report(run, scores, runs / "report.html", tokenizer=tokenizer)
    return photographed(SHOTS, {"lora": page.absolute()}, pictures)


def _tokenizer(lines: list[str]) -> Any:
    pieces = Tokenizer(models.BPE(unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    pieces.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=120, special_tokens=list(SPECIAL.values())))
    return PreTrainedTokenizerFast(tokenizer_object=pieces, **SPECIAL)


def _trainer(tokenizer: Any, items: list[dict[str, Any]], runs: Path) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **sizes))
    adapters = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"]}
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", modules_to_save=["lm_head"], **adapters))
    arguments = TrainingArguments(
        str(runs / "trainer"),
        num_train_epochs=6,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    return Trainer(model, arguments, train_dataset=items, data_collator=collator)  # type: ignore[arg-type]
