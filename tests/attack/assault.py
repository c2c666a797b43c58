"""Attacks during which a good image is sent, and the table of their results.

A good image is a phantom that an honest modality sends.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.attack.target import Memory, Target

LONGEST_DELAY_S = 5.0
LARGEST_GROWTH_MB = 200
READY_S = 30.0
END_S = 20.0


@dataclass
class Cost:
    """The cost of an attack for the attacker, and the state of the attack.

    Attributes:
        bytes: Number of bytes that were sent.
        ready: Set by the attack when a good image may be sent.
        over: Set when the attack must end.
        note: The result of the attack, as text for the table.
    """

    bytes: int = 0
    ready: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    note: str = ""


Attack = Callable[[Cost], None]
"""A function that attacks the node. It runs in its own thread. It should end within
END_S seconds after `Cost.over` is set."""


@dataclass
class Seen:
    """A row of the table of results: an attack and its effects.

    Attributes:
        item: Number of a group of similar attacks. The table is sorted by this number.
        attack: Description of the attack.
        sent: Bytes that the attacker sent.
        seconds: Duration of the attack.
        before: Turnaround of a good image without the attack, in seconds. It is NaN if
            it was not measured.
        during: Turnaround of a good image during the attack, in seconds. It is infinite
            if it took too long, and NaN if it was not measured.
        growth: Largest growth of a process in megabytes, by role.
        note: Other results.
        failures: Expectations that do not hold.
    """

    item: int
    attack: str
    sent: int = 0
    seconds: float = 0.0
    before: float = math.nan
    during: float = math.nan
    growth: dict[str, int] = field(default_factory=dict)
    note: str = ""
    failures: list[str] = field(default_factory=list)

    def expect(self, holds: bool, failure: str) -> None:  # noqa: FBT001
        """Record `failure` if an expectation does not hold. `check` then fails."""
        if not holds:
            self.failures.append(failure)

    def check(self) -> None:
        """Raise AssertionError if the attack did harm.

        Harm is a delay of the good image by more than LONGEST_DELAY_S, a process that
        grew by more than LARGEST_GROWTH_MB, or an expectation that does not hold.
        """
        if self.during - self.before > LONGEST_DELAY_S:
            self.failures.append("a good image waited")
        for role, megabytes in self.growth.items():
            if megabytes > LARGEST_GROWTH_MB:
                self.failures.append(f"a process ({role}) grew by {megabytes} MB")
        assert not self.failures, "; ".join(self.failures)


def in_words(seconds: float) -> str:
    """Return a duration as text; "in vain" if it is infinite."""
    return f"{seconds:.1f} s" if math.isfinite(seconds) else "in vain"


ROWS: list[Seen] = []


def note(item: int, attack: str) -> Seen:
    """Add a row for an attack to the table, and return the row.

    The arguments become the fields `Seen.item` and `Seen.attack`.
    """
    seen = Seen(item, attack)
    ROWS.append(seen)
    return seen


def assault(
    target: Target, item: int, name: str, attack: Attack, *, at_least_s: float = 0
) -> Seen:
    """Attack a node, and send a good image during the attack.

    `target.damaged` becomes true if the attack does not end or delays the image by more
    than LONGEST_DELAY_S; otherwise, it becomes false.

    Args:
        target: A running node.
        item: Number of the group of similar attacks; see `Seen`.
        name: Name of the attack in the table.
        attack: The attack. It starts before the good image is sent.
        at_least_s: Seconds that the attack may last, even if the good image is done
            earlier.

    Returns:
        The row of the attack in the table.
    """
    seen = note(item, name)
    cost = Cost()
    thread = threading.Thread(target=_guarded, args=(attack, cost), daemon=True)
    with Memory(target.node.process.pid) as memory:
        start = time.monotonic()
        thread.start()
        cost.ready.wait(READY_S)
        seen.before, seen.during = target.usual_s, target.turnaround()
        left_s = start + at_least_s - time.monotonic()
        thread.join(max(left_s, 0))
        cost.over.set()
        thread.join(END_S)
        seen.seconds = time.monotonic() - start
        seen.growth = memory.growth()
    seen.sent, seen.note = cost.bytes, cost.note
    target.damaged = seen.during - seen.before > LONGEST_DELAY_S or thread.is_alive()
    return seen


def _guarded(attack: Attack, cost: Cost) -> None:
    """Run an attack. If it raises an exception, note that the node ended the attack.

    A note that the attack made is kept.
    """
    try:
        attack(cost)
    except Exception as error:  # noqa: BLE001 - any effect of a refusal
        cost.note = cost.note or f"the node ended it ({type(error).__name__})"
    finally:
        cost.ready.set()
