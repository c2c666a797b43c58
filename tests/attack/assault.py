"""Runs one attack beside a good image, and writes a row of the table about it."""

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
    """What an attack has cost the attacker so far, and how it stands.

    Attributes:
        bytes: Bytes that were sent.
        ready: Set by the attack when a good image is to be sent beside it.
        over: Set when the attack must end.
        note: What came of the attack.
    """

    bytes: int = 0
    ready: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    note: str = ""


Attack = Callable[[Cost], None]
"""Runs in a thread of its own until it is done, or until `over` is set."""


@dataclass
class Seen:
    """A row of the table.

    Attributes:
        item: The item of SECURITY.md's list of attacks.
        attack: What was done.
        sent: Bytes that it cost the attacker.
        seconds: How long it went on.
        before: A good image's turnaround without it, in seconds.
        during: The same beside it; infinite if it took too long.
        growth: Megabytes by which processes grew, by role.
        note: What else came of it.
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
        """Note what must hold; `check` fails with all that does not."""
        if not holds:
            self.failures.append(failure)

    def check(self) -> None:
        """Fail if the attack was a success."""
        if self.during - self.before > LONGEST_DELAY_S:
            self.failures.append("a good image waited")
        for role, megabytes in self.growth.items():
            if megabytes > LARGEST_GROWTH_MB:
                self.failures.append(f"a process ({role}) grew by {megabytes} MB")
        assert not self.failures, "; ".join(self.failures)


def in_words(seconds: float) -> str:
    """A duration, or that what was waited for did not come."""
    return f"{seconds:.1f} s" if math.isfinite(seconds) else "in vain"


ROWS: list[Seen] = []


def note(item: int, attack: str) -> Seen:
    """Begin a row for an attack that no good image is sent beside."""
    seen = Seen(item, attack)
    ROWS.append(seen)
    return seen


def assault(
    target: Target, item: int, name: str, attack: Attack, *, at_least_s: float = 0
) -> Seen:
    """Attack a node, and send a good image meanwhile.

    Args:
        target: A node that runs.
        item: See Seen.
        name: What the attack is called in the table.
        attack: See Attack.
        at_least_s: How long the attack may go on if the good image is done earlier.
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
    """Run an attack; that the node refuses it or hangs up is an ordinary end of it."""
    try:
        attack(cost)
    except Exception as error:  # noqa: BLE001 - whatever a refusal leads to
        cost.note = cost.note or f"the node ended it ({type(error).__name__})"
    finally:
        cost.ready.set()
