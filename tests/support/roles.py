"""Roles in separate processes, for tests that stop them."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SOON_S = 10.0  # for a busy machine; an idle one needs one to five seconds


class Role:
    """A role in a separate process, and its log lines.

    Attributes:
        process: The process, whose standard error is a pipe with the log.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()

    def has_logged(self, words: str) -> None:
        """Wait until the role has logged these words."""
        with self._news:
            assert self._news.wait_for(lambda: words in "".join(self._lines), 120), (
                "".join(self._lines)
            )

    def end(self, number: int) -> str:
        """Send a signal, and require that the role ends soon with status 0.

        Returns:
            The log of the role.
        """
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> str:
        """Require that the role ends soon with status 0; return its log."""
        start = time.monotonic()
        status = self.process.wait(60)
        took = time.monotonic() - start
        self._reader.join()
        log = "".join(self._lines)
        assert (status, took < SOON_S) == (0, True), f"{status} after {took:.1f} s{log}"
        return log


@contextmanager
def running(arguments: Sequence[str], folder: Path) -> Iterator[Role]:
    """Run Python with some arguments during the block, and kill it afterwards.

    Args:
        arguments: The arguments of Python, such as "-m" and the module of a role.
        folder: The working directory.
    """
    with subprocess.Popen(
        [sys.executable, "-P", *arguments],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # The role imports the modules of this checkout from any working directory.
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        try:
            yield Role(process)
        finally:
            process.kill()


def configured(folder: Path, storage: str = "", model: str = "") -> Path:
    """Write settings with any free ports, and return their file.

    Args:
        folder: The folder for the settings and the storage directory.
        storage: Further keys of the section [storage], as TOML.
        model: The keys of the section [model], as TOML.
    """
    config = folder / "node.toml"
    config.write_text(
        f'[storage]\ndirectory = "node"\nmin_free_mb = 1\n{storage}\n'
        '[receiver]\nhost = "127.0.0.1"\nport = 0\n'
        f"[api]\nport = 0\n[model]\n{model}\n"
    )
    return config
