"""Validates the settings, tests the model on phantoms, and tests the destinations.

The command reports who may use the web pages, whether the kernel confines the process
that decodes images, and the time zone of results. It lists the ages, views and body
parts of the model's intended use. It checks the spool and the database. A SQLite
database is first migrated to this release.

An AE is tested by C-ECHO. A DICOMweb service is tested by a search with the credentials
from the settings. A RIS is tested by opening a connection.

`--record` writes the SHA-256 of your own weights, and the model's results for the
phantoms, into the model card. Use it once for new weights.
"""

import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from zoneinfo import TZPATH

from config.access import access_problems
from config.destinations import Address
from config.settings import Settings
from dicom_node.analysis.pipeline import intended_use
from dicom_node.commands.node_settings import node_settings_or_exit
from dicom_node.decoder.client import DecoderProcess
from dicom_node.decoder.confinement import UNCONFINED, offered
from dicom_node.delivery.client import ConnectionTest
from dicom_node.delivery.clients import client_for
from dicom_node.outcome import Verdict
from dicom_node.receiver.admission import open_to_anyone
from dicom_node.runtime.process import keep_files_private, role_parser
from dicom_node.storage.database import open_engine
from dicom_node.storage.migration import check_schema, migrate
from dicom_node.storage.spool import probe
from dicom_node.storage.storage_id import verify_storage_id
from inference.classification.classifier import Classifier, record, self_test
from models.card import ModelError

_POSIX_ZONE = re.compile(r"(<[^>]+>|[A-Za-z]{3,})[+-]?\d")
"""The start of a value of TZ that states its offset, such as "AST-3" (POSIX 8.3)."""

_UTC = frozenset({"UTC", "Etc/UTC", "GMT", "Etc/GMT", "Zulu", "Etc/Zulu"})
"""Names of UTC. They need no tz database, because an unknown name means UTC, too."""


class CheckError(Exception):
    """A check failed; the message says why."""


def main() -> None:
    """Print the result of each check.

    The exit status is 0 if all checks pass. It is 1 if a check fails, or if `--record`
    is given and the settings name no weights. It is 2 if the settings are invalid, or
    if `--record` cannot use the model.
    """
    parser = role_parser("check", __doc__)
    parser.add_argument("--record", action="store_true", help="complete the model card")
    arguments = parser.parse_args()
    keep_files_private()
    settings = node_settings_or_exit(arguments.config)
    sys.stdout.write("settings: ok\n")
    if arguments.record:
        _record(settings)
    for warning in _warnings(settings):
        sys.stdout.write(f"warning: {warning}\n")
    results = [_passes(name, check) for name, check in _checks(settings)]
    sys.exit(0 if all(results) else 1)


def _passes(name: str, check: Callable[[], str]) -> bool:
    try:
        details = check()
    except Exception as error:  # noqa: BLE001 - each check may fail in its own way
        sys.stdout.write(f"{name}: {error}\n")
        return False
    sys.stdout.write(f"{name}: {details}\n")
    return True


def _checks(settings: Settings) -> list[tuple[str, Callable[[], str]]]:
    calling_ae_title = settings.receiver.ae_title
    return [
        ("access", partial(_access, settings)),
        ("model", partial(_model, settings)),
        ("decoding", partial(_decoding, settings)),
        ("time zone", _time_zone),
        ("spool", partial(_spool, settings)),
        ("database", partial(_database, settings)),
        *(
            (name, partial(_check_connection, test_connection))
            for each in settings.destinations
            for name, test_connection in client_for(
                each, calling_ae_title
            ).connection_tests(f"destination {each.name}")
        ),
    ]


def _access(settings: Settings) -> str:
    if wrong := access_problems(settings.api):
        raise CheckError("; ".join(wrong))
    if settings.api.guarded:
        return "ok, only users in the settings may use the page"
    return f"ok, anyone on this machine may use the page ({settings.api.host})"


def _model(settings: Settings) -> str:
    classifier = Classifier.load(settings.model.weights, settings.model.device)
    self_test(classifier)
    card = classifier.card
    compared = (
        "the phantom gives the results on the card"
        if card.phantom_logits
        else "the card has no phantom results; run `fracture-node check --record`"
    )
    use = intended_use(card, settings.model)
    patients = f"at least {use.min_age_years:g} years" if use.min_age_years else "any"
    views = " and ".join(", ".join(each) for each in use.views if each) or "any"
    return (
        f"ok, {card.name} {card.version}, {compared}; age of patients: {patients}; "
        f"supported values of View Position: {views}; supported values of Body Part "
        f"Examined: {', '.join(card.body_parts) or 'any'}"
    )


def _decoding(settings: Settings) -> str:
    """Start and end a decoder, and return how the kernel confines it."""
    worker = settings.worker
    child = DecoderProcess(
        timeout_s=worker.decode_timeout_s, memory_mb=worker.decode_memory_mb
    )
    child.close()
    return f"ok, {child.confinement}"


def _time_zone() -> str:
    """Return the time zone of the times in results: that of this process.

    The C library reads an unknown time zone as UTC without an error. It reads only the
    tz database of the operating system, not the package tzdata of Python.
    """
    zone = os.environ.get("TZ", "").removeprefix(":")
    files = (Path(each) / zone for each in TZPATH)
    if (
        zone
        and zone not in _UTC
        and not _POSIX_ZONE.match(zone)
        and not any(each.is_file() for each in files)
    ):
        raise CheckError(
            f"this system has no time zone {zone!r}, so results would have times in "
            "UTC; correct the environment variable TZ, or install the package tzdata "
            "of the operating system"
        )
    now = datetime.now(UTC).astimezone()
    return (
        f"ok, {zone or now.tzname()}, now UTC{now.isoformat()[-len('+00:00') :]}; for "
        "results of images without Timezone Offset From UTC (0008,0201). Set the "
        "environment variable TZ if the modalities have another one"
    )


def _spool(settings: Settings) -> str:
    probe(settings.storage)
    return f"ok, {settings.storage.directory.absolute()}"


def _database(settings: Settings) -> str:
    if not settings.storage.database:
        migrate(settings.storage)
    engine = open_engine(settings.storage.database_url)
    check_schema(engine)
    verify_storage_id(engine, settings.storage)
    return "ok"


def _check_connection(test_connection: ConnectionTest) -> str:
    outcome = test_connection()
    if outcome.verdict is not Verdict.STORED:
        raise CheckError(outcome.comment)
    return "ok, it responds"


def _warnings(settings: Settings) -> list[str]:
    receiver = settings.receiver
    warnings = open_to_anyone(settings)
    if not (found := offered()).is_complete:
        warnings.append(f"decoding: {found}. {UNCONFINED}")
    callers = {each.ae_title for each in receiver.allowed_callers}
    warnings += [
        f"{each.name} reports storage commitment in an association of its own, but "
        f"{address.ae_title} is not in allowed_callers under [receiver]; add it"
        for each in settings.destinations
        if each.commitment and callers
        for address in each.addresses
        if callers.isdisjoint({address.ae_title, *_other_reporters(address)})
    ]
    if not settings.destinations:
        warnings.append("there is no [[destinations]] block; results are not sent")
    return warnings


def _other_reporters(address: Address) -> list[str]:
    return [each.ae_title for each in address.commitment_callers]


def _record(settings: Settings) -> None:
    if settings.model.weights is None:
        sys.exit("--record needs weights of your own; set weights under [model]")
    try:
        card = record(settings.model.weights)
    except ModelError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    sys.stdout.write(f"recorded on the card: {card.phantom_logits}\n")


if __name__ == "__main__":
    main()
