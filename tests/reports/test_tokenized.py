"""Sequences as texts by a tokenizer: where the tokens stand is found, whatever the batches are."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.datasets import CharacterTokenizer
from hydragrad.errors import PresentationError
from hydragrad.reports.tokenized import texts_by
from hydragrad.training import train

TOKENIZER = CharacterTokenizer(tuple(".abcdefgh"))
LENGTH, SAMPLES = 6, 12


class Model(nn.Module):
    """Logits of the next token, of each token by itself."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(len(TOKENIZER), len(TOKENIZER))

    def forward(self, tokens):
        return self.embedding(tokens)


def tokens_of(seed=0):
    return torch.randint(1, len(TOKENIZER), (SAMPLES, LENGTH), generator=torch.Generator().manual_seed(seed))


@hg.loss_of_parts
def shifted(model, batch):
    (tokens,) = batch
    return F.cross_entropy(model(tokens)[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")


@hg.loss_of_parts
def following(model, batch):
    tokens, after = batch
    losses = F.cross_entropy(model(tokens).transpose(1, 2), after, ignore_index=-100, reduction="none")
    return losses, after != -100


def by_name(model, batch):
    logits = model(batch["input_ids"])[:, :-1]
    return F.cross_entropy(logits.transpose(1, 2), batch["labels"][:, 1:], reduction="none").mean(1)


def dicts(items):
    """Collates sequences of any length, padded with the token 0."""
    longest = max(map(len, items))
    padded = torch.stack([F.pad(item, (0, longest - len(item))) for item in items])
    mask = torch.stack([torch.arange(longest) < len(item) for item in items]).long()
    return {
        "attention_mask": mask,
        "input_ids": padded,
        "labels": torch.where(mask.bool() & (torch.arange(longest) != 2), padded, torch.tensor(-100)),
    }


def trained(loss, data, path, **options):
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    return train(model, loss, data, optimizer, epochs=1, batch_size=4, out=path, **options)


def test_tokens_that_are_read_and_predicted_in_one_tensor(tmp_path):
    tokens = tokens_of()
    run = trained(shifted, TensorDataset(tokens), tmp_path / "run")
    texts = texts_by(run, TOKENIZER)
    words = TOKENIZER.decode(tokens[3])
    assert texts.text((tokens[3],)) == words
    assert texts.pieces((tokens[3],)) == list(words[1:])
    assert texts.lead((tokens[3],)) == words[0]


def test_tokens_that_are_read_and_predicted_in_two_tensors(tmp_path):
    tokens = tokens_of()
    after = torch.where(torch.arange(LENGTH) < 4, tokens.roll(-1, 1), -100)
    run = trained(following, TensorDataset(tokens, after), tmp_path / "run")
    texts = texts_by(run, TOKENIZER.decode)  # a function does as well
    item = run.train_set[2]
    assert texts.text(item) == TOKENIZER.decode(tokens[2])
    assert texts.lead is None
    assert texts.pieces(item) == [*TOKENIZER.decode(tokens[2, 1:5]), "", ""]


def test_batches_that_are_mappings_are_shown_without_padding_and_with_what_is_read_only(tmp_path):
    sequences = [row[: 3 + i % 3] for i, row in enumerate(tokens_of())]
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with hg.Recorder(tmp_path / "run", model, optimizer, by_name, sequences, collate=dicts) as recorder:
        for start in range(0, SAMPLES, 4):
            indices = list(range(start, start + 4))
            batch = dicts([sequences[i] for i in indices])
            with recorder.step(indices, batch) as step:
                step.losses(batch).mean().backward()
                optimizer.step()
                optimizer.zero_grad()
    run = hg.Recording(tmp_path / "run", model, by_name, sequences, collate=dicts)
    texts = texts_by(run, TOKENIZER)
    assert texts.text(sequences[1]) == TOKENIZER.decode(sequences[1])
    assert texts.pieces(sequences[1]) == list(TOKENIZER.decode(sequences[1]))[1:], "though the third has no label"
    assert texts.lead(sequences[1]) == TOKENIZER.decode(sequences[1][:1])


class Pieces:
    """Leaves out the space at the beginning, as SentencePiece does."""

    pad_token_id = 0

    def decode(self, tokens):
        return "".join(f" {TOKENIZER.decode([token])}" for token in tokens).removeprefix(" ")


def test_spaces_before_tokens_and_padding_are_as_in_the_whole_text(tmp_path):
    tokens = tokens_of()
    tokens[:, -2:] = 0
    run = trained(shifted, TensorDataset(tokens), tmp_path / "run")
    texts = texts_by(run, Pieces())
    whole = texts.text((tokens[0],))
    assert whole == " ".join(TOKENIZER.decode(tokens[0, :-2]))
    assert whole[0] + "".join(texts.pieces((tokens[0],))[:3]) == whole


def test_a_report_shows_texts_and_tokens_by_a_tokenizer(tmp_path):
    tokens = tokens_of()
    data = TensorDataset(tokens)
    run = trained(shifted, data, tmp_path / "run")
    scores = hg.attribute(run, hg.mean_loss(TensorDataset(tokens_of(1))), parts=True)
    page = hg.report(run, scores, tmp_path / "page.html", tokenizer=TOKENIZER).read_text()
    shown = json.loads(page.split('<script type="application/json"')[1].split(">", 1)[1].split("</script>")[0])["shown"]
    first = int(scores.most_harmful(1)[0])
    assert shown["train"]["texts"][0] == TOKENIZER.decode(tokens[first])
    assert shown["train"]["tokens"][0]["pieces"] == list(TOKENIZER.decode(tokens[first, 1:]))


@hg.loss_of_parts
def in_chunks(model, batch):
    (tokens,) = batch
    hidden = model(tokens)[:, :-1]
    return hg.chunked_cross_entropy(hidden, model.embedding.weight, tokens[:, 1:], chunk=2)


def test_the_tokens_of_a_chunked_head_are_found(tmp_path):
    tokens = tokens_of()
    run = trained(in_chunks, TensorDataset(tokens), tmp_path / "run")
    assert texts_by(run, TOKENIZER).pieces((tokens[3],)) == list(TOKENIZER.decode(tokens[3, 1:]))


def whole(model, batch):
    tokens, label = batch
    return F.cross_entropy(model(tokens).mean(1), label, reduction="none")


@hg.loss_of_parts
def twice(model, batch):
    losses = whole(model, batch)
    return torch.stack([losses, losses.square()], 1)


def test_a_classifier_of_sequences_has_texts_and_no_pieces(tmp_path):
    data = TensorDataset(tokens_of(), torch.arange(SAMPLES) % 3)
    run = trained(whole, data, tmp_path / "run")
    texts = texts_by(run, TOKENIZER)
    assert texts.pieces is None and texts.text(data[0]) == TOKENIZER.decode(data[0][0])


def test_what_cannot_be_shown_is_refused(tmp_path):
    data = TensorDataset(tokens_of(), torch.arange(SAMPLES) % 3)
    run = trained(twice, data, tmp_path / "run")
    with pytest.raises(PresentationError, match=r"must have decode\(tokens\), or be a function"):
        texts_by(run, "gpt2")
    with pytest.raises(PresentationError, match=r"must return a str for a list of int, got list"):
        texts_by(run, lambda tokens: tokens).text(data[0])
    scores = hg.attribute(run, hg.mean_loss(data), parts=True)
    with pytest.raises(PresentationError, match="Which tokens the parts of the loss are was not found"):
        hg.report(run, scores, tmp_path / "page.html", tokenizer=TOKENIZER)
    floats = TensorDataset(torch.rand(SAMPLES, 5), torch.arange(SAMPLES) % 3)
    with pytest.raises(PresentationError, match=r"these hold \[\(1, 5\), \(1,\)\]. Pass render="):
        texts_by(run, TOKENIZER).text(floats[0])
