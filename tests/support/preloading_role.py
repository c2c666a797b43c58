"""A role with a function `preload`, which records its calls in a file."""

from collections.abc import Callable
from pathlib import Path


def preload(path: str) -> Callable[[], None]:
    """Add "preloaded" to a file; return a function that adds "waited" to the file."""
    write(path, "preloaded")

    def wait() -> None:
        write(path, "waited")

    return wait


def write(path: str, word: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{word}\n")


def main() -> None:
    """End at once."""
