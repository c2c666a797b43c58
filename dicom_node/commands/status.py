"""Shows the state of instances and of deliveries.

The lists are: the last instances with a failure, the oldest instances with unfinished
work, and the last images that were received.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from dicom_node.commands.node_settings import node_settings_or_exit
from dicom_node.commands.revisions import revisions_or_exit
from dicom_node.queries.backlog import destination_states, format_age
from dicom_node.queries.history import History
from dicom_node.runtime.process import keep_files_private, role_parser
from dicom_node.storage.database import reading
from dicom_node.storage.migration import open_or_exit
from dicom_node.storage.records import InstanceRecord
from inference.drawing.caption import percent

WIDTH = 300  # enough for a UID and a long reason
INSTANCE_COLUMNS = (
    "sop_instance_uid",
    "revision",
    "state",
    "reason",
    "probability",
    "operating_point",
    "calling_ae_title",
    "received_at",
    "files_removed_at",
    "is_summary",
)
# The lists before that of the last images, by title.
LISTS = {
    "The last instances with a failure": "failed",
    "The oldest instances with unfinished work": "unfinished",
}


def main() -> None:
    """Print the state of instances and deliveries from the journal, as text or JSON."""
    parser = role_parser("status", __doc__)
    parser.add_argument(
        "--limit", type=int, default=20, help="number of instances in each list"
    )
    parser.add_argument(
        "--uid", help="show only the instance with this SOP Instance UID"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    keep_files_private()
    settings = node_settings_or_exit(arguments.config)
    engine = open_or_exit(settings.storage.database_url)
    history = History(engine)
    lists: dict[str, Sequence[InstanceRecord]] = {"failed": (), "unfinished": ()}
    if arguments.uid is None:
        lists["failed"] = history.failed(arguments.limit)
        lists["unfinished"] = history.unfinished(arguments.limit)
        lists["listed"] = history.recent(arguments.limit)
    else:
        lists["listed"] = revisions_or_exit(history, arguments.uid)
    deliveries, paused = history.deliveries(arguments.uid), list(history.paused())
    names = [each.name for each in settings.destinations]
    if arguments.uid is not None:
        reached = {each.destination for each in deliveries}
        paused = [name for name in paused if name in reached]
        names = [name for name in names if name in reached]
    with reading(engine) as connection:
        destinations = destination_states(connection, names)
    state: dict[str, Any] = {
        "instances": history.counts(arguments.uid),
        "summaries": history.summaries() if arguments.uid is None else {},
        "deliveries": [asdict(each) for each in deliveries],
        "paused": paused,
        "destinations": {name: asdict(each) for name, each in destinations.items()},
    }
    for name, rows in lists.items():
        state[name] = [_instance_values(row) for row in rows]
    if arguments.json:
        sys.stdout.write(json.dumps(state, indent=2) + "\n")
    else:
        _print(state)


def _instance_values(row: InstanceRecord) -> dict[str, Any]:
    return {name: getattr(row, name) for name in INSTANCE_COLUMNS}


def _print(state: dict[str, Any]) -> None:
    # Markup is off, because reasons may contain brackets. If the output is not a
    # terminal, the table is so wide that each row is on one line, for programs.
    width = None if sys.stdout.isatty() else WIDTH
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    console.print(f"Instances: {_counts(state['instances']) or 'none yet'}")
    if state["summaries"]:
        console.print(f"Examination summaries: {_counts(state['summaries'])}")
    for each in state["deliveries"]:
        age = time.time() - each["oldest"]
        line = f"To {each['destination']}: {each['count']} {each['state']}"
        console.print(f"{line}, the oldest requested {age:.0f} s ago")
    for name in state["paused"]:
        console.print(f"{name} is paused")
    for name, each in state["destinations"].items():
        for line in _attempts(name, each):
            console.print(line)
    for title, key in LISTS.items():
        if state[key]:
            console.print(f"{title}:")
            console.print(_table(state[key]))
    if state["failed"] or state["unfinished"]:
        console.print("The last images that were received:")
    console.print(_table(state["listed"]))


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        *("received (UTC)", "SOP Instance UID", "state"),
        *("probability of a fracture", "reason"),
    )
    for row in rows:
        received = datetime.fromtimestamp(row["received_at"], tz=UTC)
        probability = row["probability"]
        table.add_row(
            f"{received:%Y-%m-%d %H:%M:%S}",
            row["sop_instance_uid"],
            f"{row['state']} (examination summary)"
            if row["is_summary"]
            else row["state"],
            ""
            if probability is None
            else f"{percent(probability)} {row['operating_point']}",
            row["reason"],
        )
    return table


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _attempts(name: str, destination: dict[str, Any]) -> Iterator[str]:
    """Yield sentences about the last delivery attempts to a destination.

    `destination` is a `DestinationState` as a dictionary.
    """
    for each in destination["outages"]:
        since, last = format_age(each["since"]), format_age(each["last_attempt"])
        line = f"{each['peer']} has failed for {since}: {each['reason']}"
        line += f"; last attempt {last} ago"
        if each["next_attempt"] is not None:
            line += f", next in {max(each['next_attempt'] - time.time(), 0):.0f} s"
        yield line
    if failure := destination["last_failure"]:
        age = format_age(failure["at"])
        yield f"{name}: the last delivery failed {age} ago: {failure['reason']}"
    if destination["last_success"] is not None:
        age = format_age(destination["last_success"])
        yield f"{name} last accepted results {age} ago"
    elif not destination["outages"] and not failure:
        yield f"{name} has not accepted any results yet"


if __name__ == "__main__":
    main()
