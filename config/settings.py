"""The settings: one frozen tree, read once from a TOML file and the environment.

The entry point of each process reads the tree and passes it on. No other code reads a
setting from the environment, except dicom_node/commands/serve.py: it reads the format
of the log before the settings are validated. `node.toml` beside this file lists every
key with its default. Environment variables override single keys, for example
FRACTURE_NODE__RECEIVER__PORT=104. Lists can only be set in the file.
"""

import os
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from config.access import ApiSettings
from config.base import AeTitle, CallerTitle, Host, Network, Port, Table
from config.destinations import Destination, as_table, names_are_unique
from config.errors import Problem, explain_errors
from config.tls import TlsSettings
from config.toml_file import TomlError, read_toml

ENVIRONMENT_PREFIX = "FRACTURE_NODE__"
# The keys that hold a path, in any section.
PATHS = frozenset(
    {
        *("directory", "weights", "ca_bundle", "file"),
        *("certificate", "private_key", "client_authorities"),
        *("tls_certificate", "tls_private_key", "tls_authorities"),
    }
)


_Keys = tuple[str, str]
"""The names of a section and of one of its keys."""


class SettingsError(Exception):
    """The settings are invalid, or the settings file cannot be used.

    If settings are invalid, the message lists every wrong key and environment variable
    with the reason. The file cannot be used if it does not exist, cannot be read or is
    not TOML.
    """


class Caller(Table):
    """An AE that may open an association.

    Attributes:
        ae_title: The calling AE title, as the log and the pages show it: characters
            that cannot be printed are replaced.
        network: The addresses that the AE may call from; None means any.
    """

    ae_title: CallerTitle
    network: Network | None = None


class ReceiverSettings(Table):
    """Settings of the Storage SCP; node.toml documents each key."""

    ae_title: AeTitle
    host: Host
    port: Port
    processes: int = Field(ge=1, le=64)
    max_associations: int = Field(ge=1, le=1000)
    max_associations_per_caller: int = Field(ge=1, le=1000)
    max_associations_per_address: int = Field(ge=1, le=1000)
    reserved_associations: int = Field(ge=0, le=1000)
    operation_timeout_s: float = Field(gt=0)
    allowed_callers: tuple[Annotated[Caller, BeforeValidator(as_table)], ...] = Field(
        description='a list of AE titles or of { ae_title = "DX1", network = '
        '"10.1.0.0/16" }'
    )
    max_study_age_days: int = Field(ge=0)
    for_processing: bool
    max_instance_mb: int = Field(ge=1, le=4096)


def _require_folder(value: Any) -> Any:  # noqa: ANN401 - any TOML value
    if value in ("", None):
        raise ValueError("expected a folder")
    return value


class StorageSettings(Table):
    """Storage of instances, results and journal; node.toml documents each key."""

    directory: Annotated[Path, BeforeValidator(_require_folder)]
    database: str = Field(
        pattern=r"^$|^postgresql(\+psycopg)?://",
        description="a URL that begins with postgresql://, or nothing for SQLite",
    )
    min_free_mb: int = Field(ge=0)

    @property
    def sqlite_file(self) -> Path:
        """The path of the database file if the database is SQLite."""
        return self.directory.absolute() / "node.sqlite"

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL of the database: PostgreSQL, or a local SQLite file."""
        if not self.database:
            return f"sqlite:///{self.sqlite_file}"
        return self.database.replace("postgresql://", "postgresql+psycopg://", 1)


class ModelSettings(Table):
    """The weights and the device of the model; node.toml documents each key."""

    weights: Path | None
    device: str = Field(
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="'auto', 'cpu', 'cuda' or 'cuda:1', with the number of a GPU",
    )
    min_age_years: float = Field(ge=0, le=150)
    views: tuple[str, ...]


class WorkerSettings(Table):
    """Settings of the workers; node.toml documents each key."""

    processes: int = Field(ge=1, le=64)
    decode_timeout_s: float = Field(gt=0)
    decode_memory_mb: int = Field(ge=512)
    max_megapixels: int = Field(ge=1)
    window: int = Field(ge=1)


class ResultSettings(Table):
    """Image size and series number of results; node.toml documents each key."""

    long_side: int = Field(ge=256, le=8192)
    series_number: int = Field(ge=1, le=2**31 - 1)


class ExamSettings(Table):
    """Settings of the examination summary; node.toml documents each key."""

    quiet_s: float = Field(ge=0)


class RetentionSettings(Table):
    """Days for which files, journal rows and audit events are kept.

    node.toml documents each key.
    """

    delivered_days: float = Field(ge=0)
    failed_days: float = Field(ge=0)
    journal_days: float = Field(ge=0)
    audit_days: float = Field(ge=0)


class AuditSettings(Table):
    """Settings of the audit trail; node.toml documents each key.

    The audit trail is a table of the database. If `file` is set, DICOM audit messages
    are also written to that file.
    """

    file: Path | None


class LogSettings(Table):
    """Settings of the log of every process; node.toml documents each key."""

    format: Literal["text", "json"]


class Settings(Table):
    """All settings of the node, one table for each section."""

    receiver: ReceiverSettings
    tls: TlsSettings
    storage: StorageSettings
    model: ModelSettings
    worker: WorkerSettings
    results: ResultSettings
    exam: ExamSettings
    api: ApiSettings
    retention: RetentionSettings
    audit: AuditSettings
    log: LogSettings
    destinations: Annotated[
        tuple[Destination, ...], AfterValidator(names_are_unique)
    ] = ()

    @field_validator("destinations")
    @classmethod
    def _check_examinations(
        cls, destinations: tuple[Destination, ...], info: ValidationInfo
    ) -> tuple[Destination, ...]:
        """Check that each destination gets results; return the destinations unchanged.

        Raises:
            ValueError: A destination gets only results about examinations, but there
                are none because `quiet_s` is 0.
        """
        exam = info.data.get("exam")  # absent if the section [exam] is invalid
        if exam is None or exam.quiet_s:
            return destinations
        for each in destinations:
            if all(kind.startswith("exam_") for kind in each.result_types):
                raise ValueError(
                    f"the destination {each.name} gets only results about "
                    "examinations, but quiet_s = 0 under [exam] makes none; set "
                    "quiet_s, or request other results"
                )
        return destinations


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings from a TOML file and the environment.

    A key that neither of them sets has the default of node.toml. If there is a file,
    only its destinations are used, not those of node.toml. Relative paths start at the
    folder of the file. If there is no file, they start at the working directory.

    Args:
        path: The TOML file; None means no file.
        environment: Environment variables by name. Those with a name of the form
            FRACTURE_NODE__SECTION__KEY override the file. Others may contain the
            secrets of tokens and destinations.

    Raises:
        SettingsError: The file does not exist, cannot be read or is not TOML, or a key
            or an environment variable is wrong.
    """
    tables = _defaults()
    if path is not None:
        file_tables = _read(path)
        for name, value in file_tables.items():
            default = tables.get(name)
            if isinstance(default, dict) and isinstance(value, dict):
                tables[name] = {**default, **value}
            else:
                tables[name] = value
        tables["destinations"] = file_tables.get("destinations", [])
    file = _File(str(path or "The packaged node.toml"), frozenset(tables))
    variables = _variables(environment)
    # Error lines by the source of the wrong key: the file, a variable, or both.
    problems: defaultdict[str, list[str]] = defaultdict(list)
    for name, line in _override(tables, variables, environment):
        problems[f"The {_variable_list([name])}"].append(f"{name}: {line}")
    try:
        located = _located(tables, Path() if path is None else path.parent)
        settings = Settings.model_validate(located, context=environment)
    except ValidationError as error:
        for each in explain_errors(error, Settings):
            problems[_source(each, file, variables)].append(str(each))
    if problems:
        paragraphs = (
            "\n".join([f"{source} cannot be used:", *(f"  {line}" for line in lines)])
            for source, lines in problems.items()
        )
        raise SettingsError("\n".join(paragraphs))
    return settings


def are_defaults(
    path: Path | None, environment: Mapping[str, str] = os.environ
) -> bool:
    """Return whether `load` takes all settings from the packaged node.toml.

    Args:
        path: As for `load`.
        environment: As for `load`.
    """
    return path is None and not _variables(environment)


def _variable_list(variables: Sequence[str]) -> str:
    plural = "s" if len(variables) > 1 else ""
    return f"environment variable{plural} {' and '.join(variables)}"


@dataclass(frozen=True, slots=True)
class _File:
    """The file that the settings come from.

    Attributes:
        name: The path of the file, or "The packaged node.toml" if there is no file.
        sections: The names of the sections that the file or node.toml has.
    """

    name: str
    sections: frozenset[str]


def _source(problem: Problem, file: _File, variables: Mapping[str, _Keys]) -> str:
    """Return the source of a wrong key as text for an error message.

    The source is the file, one or more environment variables, or both.
    """
    section, *keys = map(str, problem.keys)
    names = [
        name
        for name, (table, key) in variables.items()
        if table == section and keys[:1] in ([], [key])
    ]
    if not names:
        return file.name
    if keys or section not in file.sections:
        return f"The {_variable_list(names)}"
    return f"{file.name}, together with the {_variable_list(names)},"


def _defaults() -> dict[str, Any]:
    return tomllib.loads(files("config").joinpath("node.toml").read_text("utf-8"))


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path)
    except FileNotFoundError:
        raise SettingsError(
            f"{path} does not exist. Name an existing file with --config, or omit "
            "--config to run with the defaults."
        ) from None
    except TomlError as error:
        raise SettingsError(f"{path} {error}") from None


def _variables(environment: Mapping[str, str]) -> dict[str, _Keys]:
    """Return (section, key) for each FRACTURE_NODE__ variable, by variable name."""
    names = (
        name for name in environment if name.upper().startswith(ENVIRONMENT_PREFIX)
    )
    parts = {
        name: name[len(ENVIRONMENT_PREFIX) :].lower().partition("__") for name in names
    }
    return {name: (section, key) for name, (section, _, key) in parts.items()}


def _override(
    tables: dict[str, Any],
    variables: Mapping[str, _Keys],
    environment: Mapping[str, str],
) -> Iterator[tuple[str, str]]:
    """Write the values of the environment variables to `tables`.

    Unknown keys are written, too. `load` then reports them together with the unknown
    keys of the file.

    Yields:
        The name of each variable that cannot be used, and the reason.
    """
    for name, (section, key) in variables.items():
        table = tables.get(section, {})
        if not key:
            yield name, f"contains no key; expected {ENVIRONMENT_PREFIX}SECTION__KEY"
        elif isinstance(table, list) or (
            isinstance(table, dict) and isinstance(table.get(key), list)
        ):
            yield name, "is a list; set it in the file"
        elif isinstance(table, dict):
            tables[section] = {**table, key: environment[name]}


def _located(value: Any, folder: Path) -> Any:  # noqa: ANN401 - any TOML value
    """Return a copy of a TOML value in which the strings of keys in PATHS are paths.

    A relative path becomes a path below `folder`. An absolute path stays as it is. "~"
    becomes the home directory. An empty string becomes None.
    """
    if isinstance(value, list):
        return [_located(each, folder) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _in_folder(each, folder)
        if key in PATHS and isinstance(each, str)
        else _located(each, folder)
        for key, each in value.items()
    }


def _in_folder(text: str, folder: Path) -> Path | None:
    return folder / _at_home(text) if text else None


def _at_home(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # unknown user: keep the "~" as part of the name
        return Path(text)
