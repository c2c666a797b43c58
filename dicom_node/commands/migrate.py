"""Migrates the database to the schema of this release.

A repeated migration changes nothing.
"""

from dicom_node.commands.node_settings import node_settings_or_exit
from dicom_node.log.format import configure_logging
from dicom_node.runtime.process import keep_files_private, role_parser
from dicom_node.storage.migration import migrate_or_exit


def main() -> None:
    """Migrate the database that the settings name."""
    arguments = role_parser("migrate", __doc__).parse_args()
    settings = node_settings_or_exit(arguments.config)
    configure_logging("migrate", settings.log.format)
    keep_files_private()
    migrate_or_exit(settings.storage)


if __name__ == "__main__":
    main()
