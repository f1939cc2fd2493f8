"""A Hugging Face Trainer in two lines: it trains what it always trains, and contributions are its derivatives."""

import pytest
import torch

import hydragrad as hg

pytest.importorskip("transformers", reason="the transformers extra is not installed")
pytest.importorskip("accelerate", reason="the transformers extra is not installed")

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from hydragrad.errors import RecordingMismatch, StepError, Unsupported
from hydragrad.integrations.transformers import record, recording
from integrations.differences import along_two_directions
from integrations.trainers import (
    SAMPLES,
    WORDS,
    arguments,
    bart,
    bert,
    build_trainer,
    data,
    gpt2,
    padded,
    retrain,
    written_out,
)

NAMES = ["bert", "distilbert", "gpt2", "bart"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            trainer = build_trainer(name, folder)
            with record(trainer, folder / "run") as recorded:
                trainer.train()
            made[name] = trainer, recorded.recording()
        return made[name]

    return get


def held_out_loss(model, name):
    losses, _ = written_out(model.eval(), padded(data(name, 5, seed=9)))
    return losses.mean().item()


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_trainer_trains_what_it_trains_unrecorded(name, runs, tmp_path):
    plain = build_trainer(name, tmp_path)
    plain.train()
    recorded, run = runs(name)
    for key, value in plain.model.named_parameters():
        # Losses of language models are computed in float32 by transformers, whatever the model's dtype.
        rounding = 1e-5 if name == "gpt2" else 1e-10
        torch.testing.assert_close(dict(recorded.model.named_parameters())[key], value, rtol=rounding, atol=rounding)
        torch.testing.assert_close(run.final.parameters[key], recorded.model.get_parameter(key).detach())


@pytest.mark.parametrize("name", NAMES)
def test_contributions_are_derivatives_of_real_retrainings(name, runs, tmp_path):
    _, run = runs(name)
    plain = retrain(name, tmp_path, torch.ones(SAMPLES).double())
    for key, value in plain.named_parameters():
        torch.testing.assert_close(run.final.parameters[key], value.detach(), rtol=1e-9, atol=1e-11)

    def retrained(weights):
        return held_out_loss(retrain(name, tmp_path, weights), name)

    directions, expected = along_two_directions(retrained, SAMPLES)
    scores = hg.attribute(run, hg.mean_loss(data(name, 5, seed=9)), curvature="hessian", smoothing=0)
    torch.testing.assert_close(scores.values[0] @ directions.T, expected, rtol=1e-5, atol=1e-9)
    assert scores.values.abs().min() > 0


@pytest.mark.parametrize("name", NAMES)
def test_contributions_of_tokens_add_up_to_those_of_sequences(name, runs):
    _, run = runs(name)
    query = hg.mean_loss(data(name, 5, seed=9))
    scores = hg.attribute(run, query, curvature="hessian", smoothing=0, parts=True)
    alone = hg.attribute(run, query, curvature="hessian", smoothing=0)
    torch.testing.assert_close(scores.values, alone.values, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(scores.part_contributions.nansum(-1), alone.values, rtol=1e-9, atol=1e-12)
    counted = [
        sum(label != -100 for label in row["labels"][name == "gpt2" :]) if name in ("gpt2", "bart") else 1
        for row in data(name)
    ]
    assert (~scores.part_contributions[0].isnan()).sum(1).tolist() == counted


@pytest.mark.parametrize("name", NAMES)
def test_clipping_at_one_acts(name, runs):
    assert any(step.clipped for step in runs(name)[1].steps)


def test_coefficients_are_one_over_the_tokens_of_the_accumulated_batch(runs):
    run, train_set = runs("gpt2")[1], data("gpt2")
    for step in run.steps:
        tokens = sum(len(train_set[index]["labels"]) - 1 for index in step.indices)
        for part in step.micro_batches:
            assert part.coefficients == pytest.approx(1 / tokens, rel=1e-12)


def test_bfloat16_is_recorded_and_trains_what_it_trains_unrecorded(tmp_path):
    models = []
    for name in ("plain", "recorded"):
        trainer = build_trainer("bert", tmp_path / name, bert().float(), bf16=True)
        if name == "plain":
            trainer.train()
        else:
            with record(trainer, tmp_path / "run") as recorded:
                trainer.train()
        models.append(trainer.model)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    run = recorded.recording()
    assert {part.autocast for step in run.steps for part in step.micro_batches} == {("cpu", "bfloat16")}
    assert hasattr(trainer.model, "_original_forward") and "forward" in vars(trainer.model)
    assert trainer.predict(data("bert", 4)).predictions.shape == (4, 3)
    assert hg.attribute(run, hg.mean_loss(data("bert", 5, seed=9))).values.isfinite().all()


def test_dropout_and_schedules_are_repeated_without_clipping(tmp_path):
    trainer = build_trainer(
        "gpt2", tmp_path, gpt2(dropout=0.1), max_grad_norm=0.0, lr_scheduler_type="cosine", warmup_steps=2
    )
    with record(trainer, tmp_path / "run", checkpoint_every=2) as recorded:
        trainer.train()
    run = recorded.recording()
    assert len({step.rate for step in run.steps}) == len(run.steps) - 1  # up to the top and down again
    assert not any(step.transforms for step in run.steps)
    scores = hg.attribute(run, hg.mean_loss(data("gpt2", 5, seed=9)), curvature="hessian")
    assert scores.evidence.replay_exact and scores.values.abs().min() > 0


def test_the_best_model_is_loaded_after_the_record_ended(tmp_path):
    options = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    trainer = build_trainer("bert", tmp_path, **options, metric_for_best_model="loss", learning_rate=0.3)
    with record(trainer, tmp_path / "run") as recorded:
        trainer.train()
    run = recorded.recording()
    assert run.completed and len(run.steps) == trainer.state.global_step
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric, rel=1e-5)


def test_a_padded_embedding_that_is_tied_to_the_head_has_no_curvature(tmp_path):
    trainer = build_trainer("bart", tmp_path, bart(tied=True))
    with record(trainer, tmp_path / "run") as recorded:
        trainer.train()
    query = hg.mean_loss(data("bart", 5, seed=9))
    with pytest.raises(Unsupported, match="has a padding index and shares its weight with another layer"):
        hg.attribute(recorded.recording(), query, curvature="hessian")


def test_models_that_compute_partly_in_float32_are_recorded_in_float32(tmp_path):
    trainer = build_trainer("t5", tmp_path)
    with record(trainer, tmp_path / "run") as recorded:
        trainer.train()
    scores = hg.attribute(recorded.recording(), hg.mean_loss(data("t5", 5, seed=9)), curvature="hessian")
    assert scores.evidence.replay_exact and scores.values.abs().min() > 0


def test_a_run_is_opened_later_by_a_trainer_like_the_recorded_one(runs, tmp_path):
    _, run = runs("distilbert")
    again = recording(build_trainer("distilbert", tmp_path), run.path)
    assert again.digest == run.digest


def test_a_loss_of_the_users_is_recorded_where_the_trainer_descends_its_mean(tmp_path):
    class Margins(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return margins(model, inputs).mean()

    trainer = Margins(bert(), arguments(tmp_path), train_dataset=data("bert"), data_collator=padded)
    with record(trainer, tmp_path / "run", loss=margins) as recorded:
        trainer.train()
    run = recorded.recording()
    assert run.steps[0].micro_batches[0].coefficients == pytest.approx(1 / 3)
    other = build_trainer("bert", tmp_path)
    message = r"its own loss was .* and of the recorded ones: .*loss="
    with pytest.raises(StepError, match=message), record(other, tmp_path / "other", loss=margins):
        other.train()


def margins(model, batch):
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return (1 - logits.gather(1, batch["labels"][:, None])[:, 0]).square()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neftune_noise_alpha": 5.0}, "this one has neftune_noise_alpha"),
        ({"torch_compile": True}, "this one has torch_compile"),
        ({"auto_find_batch_size": True}, "this one has auto_find_batch_size"),
    ],
)
def test_settings_that_are_not_recorded_are_refused_before_training(options, message, tmp_path):
    trainer = build_trainer("bert", tmp_path, **options)
    with pytest.raises(Unsupported, match=message), record(trainer, tmp_path / "run"):
        trainer.train()
    assert not (tmp_path / "run").exists()


def test_label_smoothing_is_refused_with_both_losses(tmp_path):
    trainer = build_trainer("bert", tmp_path, label_smoothing_factor=0.2)
    message = r"at step 0 its own loss was .*label smoothing"
    with pytest.raises(StepError, match=message), record(trainer, tmp_path / "run"):
        trainer.train()
    assert not (tmp_path / "run").exists()


def test_a_model_whose_loss_is_not_known_needs_one(tmp_path):
    trainer = build_trainer("bert", tmp_path, BertForQuestionAnswering(bert().config))
    message = "per-sample loss must be given for a BertForQuestionAnswering"
    with pytest.raises(Unsupported, match=message), record(trainer, tmp_path / "run"):
        pass


def test_a_block_without_training_is_named(tmp_path):
    message = r"trainer.train\(\) belongs inside"
    with pytest.raises(StepError, match=message), record(build_trainer("bert", tmp_path), tmp_path / "run"):
        pass


def test_the_trainer_is_left_as_it_was(tmp_path):
    trainer = build_trainer("bert", tmp_path)
    before = set(vars(trainer)), len(trainer.callback_handler.callbacks)
    with record(trainer, tmp_path / "run"):
        trainer.train()
    assert not {"training_step", "compute_loss", "get_train_dataloader"} & set(vars(trainer))
    assert len(trainer.callback_handler.callbacks) == before[1]


def test_an_error_in_the_loop_is_the_one_that_is_raised(tmp_path):
    class Stops(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise ZeroDivisionError("stopped")

    trainer = build_trainer("bert", tmp_path)
    trainer.add_callback(Stops())
    with pytest.raises(ZeroDivisionError, match="stopped"), record(trainer, tmp_path / "run"):
        trainer.train()
    with pytest.warns(UserWarning, match="was not completed"):
        assert len(recording(trainer, tmp_path / "run").steps) == 3


@pytest.mark.parametrize("killed_after", [4, 6])
def test_a_trainer_that_is_resumed_from_its_checkpoint_trains_and_records_the_same(killed_after, tmp_path):
    class Stops(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            if state.global_step == killed_after:
                raise ZeroDivisionError("killed")

    def build(folder):
        options = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 3}
        return build_trainer("gpt2", folder, gpt2(dropout=0.1), **options)

    whole = build(tmp_path / "whole")
    with record(whole, tmp_path / "whole" / "run", seed=5, checkpoint_every=100):
        whole.train()
    killed = build(tmp_path)
    killed.add_callback(Stops())
    with pytest.raises(ZeroDivisionError, match="killed"), record(killed, tmp_path / "run", seed=5):
        killed.train()
    resumed = build(tmp_path)
    with record(resumed, tmp_path / "run") as recorded:
        resumed.train(resume_from_checkpoint=True)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    run = recorded.recording()
    assert [step.indices for step in run.steps] == [
        step.indices for step in recording(whole, tmp_path / "whole/run").steps
    ]
    assert hg.attribute(run, hg.mean_loss(data("gpt2", 5, seed=9))).evidence.replay_exact


def test_a_trainer_is_not_resumed_where_the_record_has_no_checkpoint(tmp_path):
    trainer = build_trainer("bert", tmp_path, save_strategy="steps", save_steps=2)
    trainer.train()
    message = "A record begins with a run's first step"
    with pytest.raises(RecordingMismatch, match=message), record(trainer, tmp_path / "run"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "trainer" / "checkpoint-2"))
    with record(build_trainer("bert", tmp_path), tmp_path / "run", checkpoint_every=50) as recorded:
        recorded.trainer.train()
    message = "must have a checkpoint before step 2"
    with pytest.raises(RecordingMismatch, match=message), record(trainer, tmp_path / "run"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "trainer" / "checkpoint-2"))


def tokenizer():
    words = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[MASK]": 3, "[UNK]": 4} | {f"w{i}": i for i in range(5, WORDS)}
    made = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", mask_token="[MASK]", unk_token="[UNK]")


@pytest.mark.parametrize(
    ("name", "collator"),
    [
        ("bert", lambda: DataCollatorWithPadding(tokenizer())),
        ("gpt2", lambda: DataCollatorForLanguageModeling(tokenizer(), mlm=False)),
        ("masked", lambda: DataCollatorForLanguageModeling(tokenizer(), mlm=True, mlm_probability=0.5)),
    ],
)
def test_batches_of_transformers_own_collators_are_fetched_again(name, collator, tmp_path):
    model = BertForMaskedLM(bert().config).double() if name == "masked" else None
    trainer = build_trainer("bert" if name == "masked" else name, tmp_path, model)
    trainer.data_collator = collator()
    trainer.train_dataset = [
        {"input_ids": item["input_ids"]} | ({"labels": item["labels"]} if name == "bert" else {})
        for item in data("bert")
    ]
    with record(trainer, tmp_path / "run") as recorded:
        trainer.train()
    run = recorded.recording()
    held_out = hg.mean_loss(trainer.train_dataset[:5], collate=padding_only if name == "masked" else None)
    scores = hg.attribute(run, held_out, curvature="none" if name == "masked" else "hessian")
    assert scores.evidence.replay_exact and scores.values.abs().min() > 0


def padding_only(batch):
    made = tokenizer().pad([{"input_ids": item["input_ids"]} for item in batch], return_tensors="pt")
    return made | {"labels": made["input_ids"].clone()}


def llama():
    torch.manual_seed(1)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, num_key_value_heads=1, max_position_embeddings=8, **sizes))


def test_norms_that_go_through_float32_have_the_curvature_of_those_that_do_not(tmp_path, monkeypatch):
    values = []
    for name in ("stock", "plain"):
        trainer = build_trainer("gpt2", tmp_path / name, llama() if name == "stock" else llama().double())
        with record(trainer, tmp_path / name / "run") as recorded:
            trainer.train()
        values.append(hg.attribute(recorded.recording(), hg.mean_loss(data("gpt2", 5)), curvature="hessian").values)
        monkeypatch.setattr(LlamaRMSNorm, "forward", plain_norm)
    torch.testing.assert_close(*values, rtol=1e-3, atol=1e-5)


def plain_norm(norm, x):
    return norm.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_gauss_newton_and_influence_take_what_the_models_return(name, runs):
    _, run = runs(name)
    query = hg.mean_loss(data(name, 5, seed=9))
    with_curvature, exact = (hg.attribute(run, query, curvature=c, smoothing=0).values for c in ("ggn", "hessian"))
    assert 0 < (with_curvature - exact).norm() < 0.5 * exact.norm()
    assert hg.influence(run, query, checkpoints=2).values.abs().min() > 0


def test_rows_are_made_where_the_first_batch_holds_no_tracked_sample(tmp_path):
    trainer = build_trainer("bert", tmp_path, optim="sgd")
    with record(trainer, tmp_path / "run") as recorded:
        trainer.train()
    run, query = recorded.recording(), hg.mean_loss(data("bert", 5, seed=9))
    late = [sample for sample in range(SAMPLES) if sample not in run.steps[0].indices][:2]
    rows = hg.hypergradients(run, samples=late).contributions(query).values
    torch.testing.assert_close(rows, hg.attribute(run, query).values[:, late], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("curvature", ["none", "hessian", "ggn"])
def test_a_head_in_chunks_gives_the_same_contributions(tmp_path, curvature):
    values = []
    for name, chunk in (("whole", None), ("chunks", 4)):
        trainer = build_trainer("gpt2", tmp_path / name)
        with record(trainer, tmp_path / name / "run", chunk=chunk) as recorded:
            trainer.train()
        run = recorded.recording()
        query = hg.mean_loss(data("gpt2", 6, seed=4), collate=padded)
        values.append(hg.attribute(run, query, curvature=curvature, parts=True).part_contributions)
    torch.testing.assert_close(values[1], values[0], rtol=1e-6, atol=1e-10, equal_nan=True)


@pytest.mark.parametrize("name", ["bert", "bart"])
def test_chunks_are_for_plain_heads_of_causal_models(tmp_path, name):
    with pytest.raises(Unsupported, match="of a causal language model whose head is a Linear without bias"):
        record(build_trainer(name, tmp_path), tmp_path / "run", chunk=8).__enter__()
    with pytest.raises(Unsupported, match="a loss of your own takes chunks itself"):
        record(build_trainer(name, tmp_path), tmp_path / "run", chunk=8, loss=lambda model, batch: None).__enter__()
