"""Lists of numbers on a command line."""

from hydragrad.errors import UnknownName


def whole_numbers(text: str, option: str) -> list[int]:
    """Return the numbers in a comma-separated list.

    Args:
        text: The list.
        option: The option that took the list, for the message.

    Raises:
        UnknownName: Something else than whole numbers above 0.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() and int(word) > 0 for word in words):
        raise UnknownName(f"{option} takes whole numbers above 0, with commas between; got {text}.")
    return [int(word) for word in words]
