"""Loads the settings of the node that a command works on."""

import sys
from pathlib import Path

from config.settings import Settings, are_defaults
from dicom_node.runtime.process import load_or_exit


def node_settings_or_exit(config: Path | None) -> Settings:
    """Return the settings from a file and the environment: see `load_or_exit`.

    If neither of them contains a setting, the settings are the packaged defaults, which
    are seldom those of the node. Then a line on standard error says this, and names the
    storage directory and the destinations.
    """
    settings = load_or_exit(config)
    if are_defaults(config):
        names = ", ".join(each.name for each in settings.destinations)
        sys.stderr.write(
            "Without --config, this command uses the default settings: the storage "
            f"directory is {settings.storage.directory.absolute()}, the destination is "
            f"{names}. Name the settings file of your node with --config FILE.\n"
        )
    return settings
