"""Migrates the database to the schema of this release.

A repeated migration changes nothing.
"""

import sys

from dicom_node.commands.node_settings import node_settings_or_exit
from dicom_node.log.format import configure_logging
from dicom_node.runtime.process import keep_files_private, role_parser
from dicom_node.storage.database import DatabaseError
from dicom_node.storage.migration import migrate_or_exit


def main() -> None:
    """Migrate the database that the settings name."""
    arguments = role_parser("migrate", __doc__).parse_args()
    settings = node_settings_or_exit(arguments.config)
    configure_logging("migrate", settings.log.format)
    keep_files_private()
    try:
        migrate_or_exit(settings.storage)
    except DatabaseError as error:
        sys.exit(_explanation(error))


def _explanation(error: DatabaseError) -> str:
    reason = " ".join(str(getattr(error, "orig", None) or error).split())
    return (
        f"The database cannot be migrated: {reason}. If a backup, another migration or "
        "another program uses the database, wait until it has ended. Otherwise check "
        "`directory` and `database` under [storage]. Then run `fracture-node migrate` "
        "again: it does what is still missing."
    )


if __name__ == "__main__":
    main()
