"""The settings: one frozen tree, read once from a TOML file and the environment.

Every role is handed the tree by its entry point; nothing else reads the environment.
`node.toml` beside this file lists every key with its default and is what runs without
`--config`. The environment overrides the file, key by key:
FRACTURE_NODE__RECEIVER__PORT=104. Lists come from the file only.
"""

import os
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from config.access import ApiSettings
from config.destinations import Destination, names_are_unique
from config.explanation import Problem, explained
from config.tables import AeTitle, CallerTitle, Host, Network, Port, Table
from config.tls import TlsSettings
from config.toml_file import TomlError, read_toml

PREFIX = "FRACTURE_NODE__"
# Keys that hold a path, wherever they stand.
PATHS = frozenset(
    {
        *("directory", "weights", "ca_bundle", "file"),
        *("certificate", "private_key", "client_authorities"),
        *("tls_certificate", "tls_private_key", "tls_authorities"),
    }
)


_Keys = tuple[str, str]
"""A section and a key of it."""


class SettingsError(Exception):
    """The settings cannot be used; the message lists every wrong key and why."""


class Caller(Table):
    """Who may open an association.

    Attributes:
        ae_title: The calling AE title, as the node shows it.
        network: The addresses it may come from; None means any.
    """

    ae_title: CallerTitle
    network: Network | None = None


def _caller(value: Any) -> Any:  # noqa: ANN401 - whatever stands in the file
    """Read a bare AE title as a caller from any network."""
    return {"ae_title": value} if isinstance(value, str) else value


class ReceiverSettings(Table):
    """The Storage SCP: see node.toml for each key."""

    ae_title: AeTitle
    host: Host
    port: Port
    processes: int = Field(ge=1, le=64)
    max_associations: int = Field(ge=1, le=1000)
    max_associations_per_caller: int = Field(ge=1, le=1000)
    max_associations_per_address: int = Field(ge=1, le=1000)
    reserved_associations: int = Field(ge=0, le=1000)
    operation_timeout_s: float = Field(gt=0)
    allowed_callers: tuple[Annotated[Caller, BeforeValidator(_caller)], ...] = Field(
        description='a list of AE titles or of { ae_title = "DX1", network = '
        '"10.1.0.0/16" }'
    )
    max_study_age_days: int = Field(ge=0)
    for_processing: bool
    max_instance_mb: int = Field(ge=1, le=4096)


def _named(value: Any) -> Any:  # noqa: ANN401 - whatever stands in the file
    if value in ("", None):
        raise ValueError("name a folder")
    return value


class StorageSettings(Table):
    """Where instances, results and the journal lie: see node.toml for each key."""

    directory: Annotated[Path, BeforeValidator(_named)]
    database: str = Field(
        pattern=r"^$|^postgresql(\+psycopg)?://",
        description="a URL that begins with postgresql://, or nothing for SQLite",
    )
    min_free_mb: int = Field(ge=0)

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL of the database: PostgreSQL's, or a file of ours."""
        if not self.database:
            return f"sqlite:///{self.directory.absolute() / 'node.sqlite'}"
        return self.database.replace("postgresql://", "postgresql+psycopg://", 1)


class ModelSettings(Table):
    """Which weights answer: see node.toml for each key."""

    weights: Path | None
    device: str = Field(
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="'auto', 'cpu', 'cuda' or 'cuda:1', the number being that of a GPU",
    )


class WorkerSettings(Table):
    """The processes that analyze and deliver: see node.toml for each key."""

    processes: int = Field(ge=1, le=64)
    decode_timeout_s: float = Field(gt=0)
    decode_memory_mb: int = Field(ge=512)
    max_megapixels: int = Field(ge=1)
    window: int = Field(ge=1)


class ResultSettings(Table):
    """How results look: see node.toml for each key."""

    long_side: int = Field(ge=256, le=8192)
    series_number: int = Field(ge=1, le=2**31 - 1)


class RetentionSettings(Table):
    """How long what has ended is kept: see node.toml for each key."""

    delivered_days: float = Field(ge=0)
    failed_days: float = Field(ge=0)
    journal_days: float = Field(ge=0)
    audit_days: float = Field(ge=0)


class AuditSettings(Table):
    """The audit trail, which is in the journal's database in any case."""

    file: Path | None


class LogSettings(Table):
    """The log of every process: see node.toml for each key."""

    format: Literal["text", "json"]


class Settings(Table):
    """Everything that can be set."""

    receiver: ReceiverSettings
    tls: TlsSettings
    storage: StorageSettings
    model: ModelSettings
    worker: WorkerSettings
    results: ResultSettings
    api: ApiSettings
    retention: RetentionSettings
    audit: AuditSettings
    log: LogSettings
    destinations: Annotated[
        tuple[Destination, ...], AfterValidator(names_are_unique)
    ] = ()


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    Args:
        path: The TOML file; keys that it leaves out have the defaults of node.toml,
            but for destinations, which are only those of the file. None means
            node.toml itself. Paths in it are relative to its folder, those of
            node.toml to the working directory.
        environment: Where FRACTURE_NODE__SECTION__KEY variables override the file, and
            where the secrets are that destinations name.

    Raises:
        SettingsError: The file is missing, no TOML, or holds wrong keys.
    """
    tables = _defaults()
    if path is not None:
        given = _read(path)
        for name, value in given.items():
            default = tables.get(name)
            if isinstance(default, dict) and isinstance(value, dict):
                tables[name] = {**default, **value}
            else:
                tables[name] = value
        tables["destinations"] = given.get("destinations", [])
    file = _File(str(path or "The packaged node.toml"), frozenset(tables))
    variables = _variables(environment)
    # Lines by what holds the wrong keys: the file, variables, or both.
    wrong: defaultdict[str, list[str]] = defaultdict(list)
    for name, line in _override(tables, variables, environment):
        wrong[f"The {_variables_named([name])}"].append(f"{name}: {line}")
    try:
        located = _located(tables, Path() if path is None else path.parent)
        settings = Settings.model_validate(located, context=environment)
    except ValidationError as error:
        for each in explained(error, Settings):
            wrong[_holder(each, file, variables)].append(str(each))
    if wrong:
        paragraphs = (
            "\n".join([f"{holder} cannot be used:", *(f"  {line}" for line in lines)])
            for holder, lines in wrong.items()
        )
        raise SettingsError("\n".join(paragraphs))
    return settings


def _variables_named(variables: Sequence[str]) -> str:
    plural = "s" if len(variables) > 1 else ""
    return f"environment variable{plural} {' and '.join(variables)}"


@dataclass(frozen=True, slots=True)
class _File:
    """The file that the settings come from.

    Attributes:
        name: Its path.
        sections: The sections that it has, and those that have defaults.
    """

    name: str
    sections: frozenset[str]


def _holder(problem: Problem, file: _File, variables: Mapping[str, _Keys]) -> str:
    """Say what holds a wrong key: the file, variables of the environment, or both."""
    section, *keys = map(str, problem.keys)
    mine = [
        name
        for name, (table, key) in variables.items()
        if table == section and keys[:1] in ([], [key])
    ]
    if not mine:
        return file.name
    if keys or section not in file.sections:
        return f"The {_variables_named(mine)}"
    return f"{file.name}, together with the {_variables_named(mine)},"


def _defaults() -> dict[str, Any]:
    return tomllib.loads(files("config").joinpath("node.toml").read_text("utf-8"))


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path)
    except FileNotFoundError:
        raise SettingsError(
            f"{path} does not exist. Name an existing file with --config, or leave "
            "--config away to run with the defaults."
        ) from None
    except TomlError as error:
        raise SettingsError(f"{path} {error}") from None


def _variables(environment: Mapping[str, str]) -> dict[str, _Keys]:
    """Return the section and the key that each variable of ours names."""
    ours = (name for name in environment if name.upper().startswith(PREFIX))
    parts = {name: name[len(PREFIX) :].lower().partition("__") for name in ours}
    return {name: (section, key) for name, (section, _, key) in parts.items()}


def _override(
    tables: dict[str, Any],
    variables: Mapping[str, _Keys],
    environment: Mapping[str, str],
) -> Iterator[tuple[str, str]]:
    """Put the values of the environment into the tables.

    A key that nobody knows is put there, too: it is reported with those of the file.

    Yields:
        A variable that cannot be used, and why.
    """
    for name, (section, key) in variables.items():
        table = tables.get(section, {})
        if not key:
            yield name, f"names no key; say {PREFIX}SECTION__KEY"
        elif isinstance(table, list) or (
            isinstance(table, dict) and isinstance(table.get(key), list)
        ):
            yield name, "is a list; set it in the file"
        elif isinstance(table, dict):
            tables[section] = {**table, key: environment[name]}


def _located(value: Any, folder: Path) -> Any:  # noqa: ANN401 - whatever stands in the file
    """Make the paths of the file relative to the file's folder."""
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
    except RuntimeError:  # a user whom nobody knows: a folder of that name, then
        return Path(text)
