"""Shows the audit trail, newest event first."""

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from dicom_node.audit.event import AuditEventType
from dicom_node.commands.node_settings import node_settings_or_exit
from dicom_node.commands.status import WIDTH
from dicom_node.queries.audit_trail import newest_records
from dicom_node.runtime.process import keep_files_private, role_parser
from dicom_node.storage.migration import open_or_exit

COLUMNS = ("what", "who", "address", "about", "times")


def main() -> None:
    """Print the newest rows of the audit trail, as a table or as JSON."""
    parser = role_parser("audit", __doc__)
    parser.add_argument(
        "--limit", type=int, default=50, help="number of events to list"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    arguments = parser.parse_args()
    keep_files_private()
    engine = open_or_exit(node_settings_or_exit(arguments.config).storage.database_url)
    rows = [asdict(each) for each in newest_records(engine, arguments.limit)]
    if arguments.json:
        sys.stdout.write("".join(f"{json.dumps(row)}\n" for row in rows))
        return
    width = None if sys.stdout.isatty() else WIDTH
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    table = Table("at (UTC)", *COLUMNS)
    for row in rows:
        at = datetime.fromtimestamp(row["at"], tz=UTC)
        is_start = row["what"] == AuditEventType.STARTED
        about = "settings: see --json" if is_start else row["about"]
        row["about"] = row["sop_instance_uid"] or about
        cells = (str(row[name]) for name in COLUMNS)
        table.add_row(f"{at:%Y-%m-%d %H:%M:%S}", *cells)
    console.print(table)


if __name__ == "__main__":
    main()
