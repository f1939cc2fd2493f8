"""LeNet-5, layer by layer."""

from hydragrad.models import LeNet5


def test_lenet5_has_the_published_layers() -> None:
    shapes = {name: tuple(value.shape) for name, value in LeNet5().named_parameters() if value.ndim > 1}
    assert shapes == {
        "conv1.weight": (6, 1, 5, 5),
        "conv2.weight": (16, 6, 5, 5),
        "conv3.weight": (120, 16, 5, 5),
        "fc1.weight": (84, 120),
        "fc2.weight": (10, 84),
    }
