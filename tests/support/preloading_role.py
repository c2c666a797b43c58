"""A role that writes to a file what it preloads and when it waits for that."""

from collections.abc import Callable
from pathlib import Path


def preload(path: str) -> Callable[[], None]:
    """Note the call; the result notes that it is called, too."""
    write(path, "preloaded")

    def wait() -> None:
        write(path, "waited")

    return wait


def write(path: str, word: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{word}\n")


def main() -> None:
    """End at once."""
