"""A role that writes to a file when it preloads, and when the server waits for that."""

from collections.abc import Callable
from pathlib import Path


def preload(path: str) -> Callable[[], None]:
    """Write "preloaded" to a file; return a function that writes "waited" to it."""
    write(path, "preloaded")

    def wait() -> None:
        write(path, "waited")

    return wait


def write(path: str, word: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{word}\n")


def main() -> None:
    """End at once."""
