"""Migrates the database of a node, and records the start and the end of the node.

The supervisor runs this module in a fork of the fork server of the receivers
(commands/node.py). This fork server has already imported the libraries for the
database, so the supervisor need not import them. If the fork fails, the supervisor
calls `run` itself.
"""

import argparse
import os

from config.settings import Settings, StorageSettings
from dicom_node.audit.trail import record, started, stopped
from dicom_node.log.format import configure_logging
from dicom_node.runtime.process import keep_files_private, load_or_exit, role_parser
from dicom_node.storage.database import open_engine
from dicom_node.storage.migration import migrate_or_exit, writing_or_exit
from dicom_node.storage.storage_id import verify_storage_or_exit


def main() -> None:
    """Run the step that the command line names."""
    parser = role_parser("serve", __doc__)
    parser.add_argument("step", choices=("start", "end"), help=argparse.SUPPRESS)
    parser.add_argument("process", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    settings = load_or_exit(arguments.config)
    configure_logging("serve", settings.log.format)
    keep_files_private()
    run(arguments.step, settings, arguments.process)


def run(step: str, settings: Settings, process: int | None = None) -> None:
    """Record the start or the end of the node in the audit trail.

    Args:
        step: "start" or "end". "start" first migrates the database if it is SQLite. The
            process exits with a message if the storage cannot be written at the start,
            or if it belongs to another database.
        settings: The settings of the node.
        process: The id of the supervisor, for the audit trail. None means that this
            process is the supervisor.
    """
    process = process or os.getpid()
    if step == "end":
        record(settings, "serve", stopped(), process)
        return
    storage = settings.storage
    with writing_or_exit(storage):
        if not storage.database:
            migrate_or_exit(storage)
            _verify_storage_or_exit(storage)
        record(settings, "serve", started(settings), process)


def _verify_storage_or_exit(storage: StorageSettings) -> None:
    engine = open_engine(storage.database_url)
    verify_storage_or_exit(engine, storage)
    engine.dispose()


if __name__ == "__main__":
    main()
