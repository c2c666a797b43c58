"""Machines that share one PostgreSQL and one spool.

Each machine is one process, a receiver or a worker, with a separate host name. It
reaches the database and the archives over its own network lines, which can be cut.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from config.destinations import Address
from dicom_node.delivery.c_store import echo, send
from dicom_node.outcome import Verdict
from tests.chaos.line import Line, State
from tests.chaos.night import ORDINARY, Night, stamped
from tests.support.node import NOTHING, wait_for

NAMED = ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"')


class Machine:
    """One machine: its process and its network lines."""

    def __init__(self, night: Night, name: str, lines: Mapping[str, Line]) -> None:
        """Prepare the machine. No process is started."""
        self.name = name
        self.lines = lines
        self.process: subprocess.Popen[bytes] | None = None
        self.log = night.folder / f"{name}.log"
        self.config = night.folder / f"{name}.toml"

    def runs(self, module: str, environment: Mapping[str, str] = NOTHING) -> None:
        """Start a role as the process of the machine, and do not wait for it.

        Args:
            module: The package of the role, such as "dicom_node.worker".
            environment: Variables that are added to the environment of this process.
        """
        command = [sys.executable, "-P", "-m", module, f"--config={self.config}"]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*NAMED, self.name, *ORDINARY, *command],
                env={**os.environ, **environment},
                stderr=log,
            )

    def signals(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def dies(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def ends(self) -> int:
        """Terminate the process, and wait for its end; return its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)

    def is_cut_off(self) -> None:
        for line in self.lines.values():
            line.state = State.HANGS

    def is_back(self) -> None:
        for line in self.lines.values():
            line.state = State.GOOD

    def said(self, words: str) -> list[float]:
        """Return the times of the log messages that begin with `words`.

        The times are in seconds since 1970.
        """
        lines = stamped(self.log.read_text())
        return [at for at, _, said in lines if said.startswith(words)]


def address(receiver: Machine) -> Address:
    line = next(
        each for each in receiver.config.read_text().splitlines() if "port =" in each
    )
    port = int(line.partition("=")[2])
    return Address(ae_title="FRACTURE_AI", host="127.0.0.1", port=port)


def answers(receiver: Machine) -> bool:
    outcome = echo(address(receiver), calling_ae_title="PROBE", timeout_s=5)
    return outcome.verdict is Verdict.STORED


def push(path: Path, receivers: list[Machine], choose: random.Random) -> None:
    """Send one instance to random receivers until a receiver has acknowledged it.

    Raise AssertionError if no receiver has acknowledged it after two minutes.
    """
    deadline = time.monotonic() + 120
    while True:
        destination = address(choose.choice(receivers))
        (outcome,) = send([path], destination, calling_ae_title="SENDER", timeout_s=20)
        if outcome.verdict is Verdict.STORED:
            return
        assert time.monotonic() < deadline, "no receiver acknowledged the instance"
        time.sleep(0.2)  # a refused sender waits before it retries


def all_run(receivers: Sequence[Machine], workers: Sequence[Machine]) -> None:
    """Migrate the database, start all roles, and wait until they are ready."""
    migrate(workers[0])
    for each in receivers:
        each.runs("dicom_node.receiver")
    for each in workers:
        each.runs("dicom_node.worker")
    wait_for(lambda: all(map(answers, receivers)))
    wait_for(lambda: all(each.said("Ready") for each in workers))


def migrate(machine: Machine, environment: Mapping[str, str] = NOTHING) -> None:
    """Migrate the database of a machine.

    `environment` has further environment variables. For example, PYTHONPATH selects
    another release.
    """
    command = [sys.executable, "-P", "-m", "dicom_node.commands.migrate"]
    subprocess.run(
        [*command, f"--config={machine.config}"],
        env={**os.environ, **environment},
        check=True,
    )
