"""Texts by name: what a sample is, the fixed split, and what is refused."""

from pathlib import Path

import pytest
import torch

import small_texts
from hydragrad.datasets import TEXTS, TextSplits, load_text
from hydragrad.datasets.sequences import PADDING
from hydragrad.errors import ChecksumMismatch, DataError, DataNotFound, UnknownName


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return small_texts.install(monkeypatch, tmp_path / "text")


def texts(splits: TextSplits, part: str) -> list[str]:
    return [splits.text(item) for item in getattr(splits, part)]


def test_every_name_is_a_sample_of_one_part(folder: Path) -> None:
    splits = load_text("names", data_dir=folder.parent)
    every = small_texts.names().split()
    assert [len(texts(splits, part)) for part in ("train", "validation", "test")] == [240, 30, 30]
    assert sorted(texts(splits, "train") + texts(splits, "validation") + texts(splits, "test")) == sorted(every)
    assert [every[line] for line in splits.positions] == texts(splits, "train")


def test_of_a_name_each_character_and_the_end_are_predicted_from_those_before(folder: Path) -> None:
    splits = load_text("names", data_dir=folder)
    read, following = splits.train[0]
    name = splits.text(splits.train[0])
    assert splits.tokenizer.decode(read[: len(name) + 1]) == f".{name}"
    assert splits.tokenizer.decode(following[: len(name) + 1]) == f"{name}."
    assert (following[len(name) + 1 :] == PADDING).all()


def test_the_seed_orders_the_training_names_and_nothing_else(folder: Path) -> None:
    first, second = (load_text("names", data_dir=folder, seed=seed) for seed in (0, 1))
    assert texts(first, "train") != texts(second, "train")
    assert sorted(texts(first, "train")) == sorted(texts(second, "train"))
    assert texts(first, "test") == texts(second, "test")


def test_blocks_of_shakespeare_follow_each_other_and_do_not_overlap(folder: Path) -> None:
    splits = load_text("shakespeare", data_dir=folder, block_size=20)
    text = small_texts.PLAY * 160
    assert "".join(texts(splits, "train")) == text[1 : 1 + 20 * len(splits.train)]
    assert splits.positions.tolist() == list(range(0, 20 * len(splits.train), 20))
    read, following = splits.train.tensors
    assert torch.equal(read[:, 1:], following[:, :-1])
    begin = int(0.9 * len(text))
    assert splits.text(splits.validation[0]) == text[begin + 1 : begin + 21]
    assert 20 * len(splits.train) < begin


def test_sizes_take_the_first_sequences_of_a_part(folder: Path) -> None:
    sizes = {"train_size": 7, "validation_size": 5, "test_size": 3}
    whole = load_text("shakespeare", data_dir=folder)
    small = load_text("shakespeare", data_dir=folder, **sizes)
    for part in ("train", "validation", "test"):
        assert texts(small, part) == texts(whole, part)[: sizes[f"{part}_size"]]


@pytest.mark.parametrize(("part", "most"), [("train", 240), ("validation", 30), ("test", 30)])
def test_a_size_out_of_range_is_refused(part: str, most: int, folder: Path) -> None:
    with pytest.raises(DataError, match=f"{part}_size of names must be between 1 and {most}, got {most + 1}"):
        load_text("names", data_dir=folder, **{f"{part}_size": most + 1})


def test_a_block_size_is_refused_where_there_are_no_blocks_or_none_fits(folder: Path) -> None:
    with pytest.raises(DataError, match="A sample of names is one name, so there is no block size, got 8"):
        load_text("names", data_dir=folder, block_size=8)
    with pytest.raises(DataError, match=r"block_size must be between 1 and \d+, got 4,000"):
        load_text("shakespeare", data_dir=folder, block_size=4_000)


def test_an_unknown_text_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="The text must be one of names, shakespeare, got 'hamlet'"):
        load_text("hamlet")


def test_a_missing_and_a_changed_file_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match=r"names is not in .*names\.txt"):
        load_text("names", data_dir=tmp_path / "elsewhere")
    (folder / "names.txt").write_text("emma\n")
    with pytest.raises(ChecksumMismatch, match="is not the published file"):
        load_text("names", data_dir=folder)


def test_shakespeare_is_found_under_its_published_name(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_bytes((folder / "tinyshakespeare.txt").read_bytes())
    (folder / "tinyshakespeare.txt").unlink()
    assert len(load_text("shakespeare", data_dir=tmp_path).train) > 1


def test_the_published_texts_have_the_documented_sizes(data_dir: Path) -> None:
    names, shakespeare = load_text("names", data_dir=data_dir), load_text("shakespeare", data_dir=data_dir)
    assert [len(p) for p in (names.train, names.validation, names.test)] == [25_626, 3_203, 3_204]
    assert [len(p) for p in (shakespeare.train, shakespeare.validation, shakespeare.test)] == [15_685, 871, 871]
    assert (len(names.tokenizer), len(shakespeare.tokenizer)) == (27, 65)
    assert len(load_text("shakespeare", data_dir=data_dir, block_size=256).train) == 3_921  # as in dattri
    assert texts(names, "train")[:3] == ["caspin", "alexa", "janvi"], "the split is pinned"
    assert set(TEXTS) == {"names", "shakespeare"}
