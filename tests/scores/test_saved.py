"""Files of scores are found by what they hold, whatever they are called."""

import torch
from safetensors.torch import save_file
from torch.utils.data import TensorDataset

from hydragrad.scores import Evidence, Method, Scores, mean_loss, sample_losses, saved_scores


def scores(*queries, about=None):
    names = tuple(name for query in queries for name in query.names())
    return Scores(
        values=torch.zeros(len(names), 3, dtype=torch.float64),
        sample_ids=torch.arange(3),
        query_names=names,
        query_values=torch.zeros(len(names), dtype=torch.float64),
        evidence=Evidence(method=Method.of("ggn"), steps=7),
        about=about or {},
        queries=queries,
    )


def test_scores_are_listed_with_what_they_say_of_themselves(tmp_path):
    data, other = TensorDataset(torch.zeros(9, 1)), TensorDataset(torch.zeros(5, 1))
    scores(sample_losses(data, [4, 2]), sample_losses(data, [7]), about={"data_set": "test"}).save(
        tmp_path / "b.safetensors"
    )
    scores(mean_loss(data)).save(tmp_path / "a.safetensors")
    scores(sample_losses(data, [1]), sample_losses(other, [1])).save(tmp_path / "c.safetensors")
    save_file({"values": torch.zeros(1)}, tmp_path / "partial.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"no scores")
    mean, samples, mixed = saved_scores(tmp_path)
    assert [saved.path.stem for saved in (mean, samples, mixed)] == ["a", "b", "c"]
    assert (samples.query_samples, samples.about) == ((4, 2, 7), {"data_set": "test"})
    assert samples.evidence.method == Method.of("ggn") and samples.evidence.steps == 7
    assert mean.query_samples is None and mean.about == {} and mean.query_names == ("mean loss of 9 samples",)
    assert mixed.query_samples is None, "numbers of samples mean nothing where there are two data sets"
    loaded = Scores.load(samples.path)
    assert (loaded.query_samples, loaded.about) == ((4, 2, 7), {"data_set": "test"})
    assert saved_scores(tmp_path / "missing") == []
