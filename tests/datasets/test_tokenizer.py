"""Characters as numbers and back."""

import pytest

from hydragrad.datasets import CharacterTokenizer
from hydragrad.errors import DataError


def test_what_is_encoded_is_decoded_again() -> None:
    tokenizer = CharacterTokenizer(tuple("\n abc"))
    assert tokenizer("cab a\n") == [4, 2, 3, 1, 2, 0]
    assert tokenizer.decode(tokenizer("cab a\n")) == "cab a\n"
    assert len(tokenizer) == 5


def test_a_character_without_a_token_is_refused() -> None:
    with pytest.raises(DataError, match="of these characters: 'abc'; got 'é'"):
        CharacterTokenizer(tuple("abc"))("abé")
