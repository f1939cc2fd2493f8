"""Text as numbers, one a character."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from hydragrad.errors import DataError


@dataclass(frozen=True)
class CharacterTokenizer:
    """Encodes a text when called, and decodes tokens.

    Attributes:
        characters: The character of every token, in order.
    """

    characters: tuple[str, ...]

    def __call__(self, text: str) -> list[int]:
        """Return one token a character.

        Raises:
            DataError: A character that has no token.
        """
        unknown = next((character for character in text if character not in self._tokens), None)
        if unknown is not None:
            raise DataError(
                f"The text must be of these characters: {''.join(self.characters)!r}; got {unknown!r}. Leave it out."
            )
        return [self._tokens[character] for character in text]

    def __len__(self) -> int:
        return len(self.characters)

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens; a tensor's elements are taken as they are."""
        return "".join(self.characters[int(token)] for token in tokens)

    @cached_property
    def _tokens(self) -> dict[str, int]:
        return {character: token for token, character in enumerate(self.characters)}
