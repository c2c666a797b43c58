"""Brings the database to the schema of this release. Safe to repeat."""

from dicom_node.database import migrate
from dicom_node.process import (
    configure_logging,
    keep_files_private,
    load_or_exit,
    role_parser,
)


def main() -> None:
    """Migrate the database that the settings name."""
    given = role_parser("migrate", __doc__).parse_args()
    configure_logging("migrate")
    keep_files_private()
    migrate(load_or_exit(given.config).storage)


if __name__ == "__main__":
    main()
