from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from hydragrad.errors import PresentationError
from hydragrad.figures import picture_grid, thumbnail


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((8, 8), (64, 64)),
        ((28, 28), (84, 84)),
        ((32, 32, 3), (64, 64)),
        ((100, 80), (80, 100)),
        ((1, 5), (65, 13)),
    ],
)
def test_thumbnails_are_enlarged_by_a_whole_number(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    shown = Image.open(BytesIO(thumbnail(picture)))
    assert shown.format == "PNG" and shown.size == size
    factor = size[0] // shape[1]
    np.testing.assert_array_equal(np.asarray(shown)[::factor, ::factor], picture)
    assert thumbnail(picture) == thumbnail(picture.copy())


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((3, 4)), np.zeros((3, 4, 4), np.uint8), np.zeros(3, np.uint8), np.zeros((0, 4), np.uint8)],
)
def test_refuses_other_pictures(wrong: np.ndarray) -> None:
    with pytest.raises(PresentationError, match="A picture is uint8 of shape"):
        thumbnail(wrong)


def test_grid_has_a_caption_a_picture() -> None:
    figure = picture_grid([np.zeros((4, 4), np.uint8)] * 3, ["one", "two\n$2", "three"], 2)
    assert [axes.get_title() for axes in figure.axes] == ["one", "two\n\\$2", "three"]
    rows = {round(axes.get_subplotspec().rowspan.start) for axes in figure.axes}
    assert rows == {0, 1}
