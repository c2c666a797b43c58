"""The settings: one frozen tree, read once from a TOML file and the environment.

Every role is handed the tree by its entry point; nothing else reads the environment.
`node.toml` beside this file lists every key with its default and is what runs without
`--config`. The environment overrides the file, key by key:
FRACTURE_NODE__RECEIVER__PORT=104. Lists come from the file only.
"""

import os
import tomllib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from config.explanation import explained

PREFIX = "FRACTURE_NODE__"


class SettingsError(Exception):
    """The settings cannot be used; the message lists every wrong key and why."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError("true and false are no value for this key")
        return value


# PS3.5 table 6.2-1, AE: at most 16 characters of the default repertoire, neither
# backslash nor control characters; spaces at either end mean nothing.
AeTitle = Annotated[str, Field(pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$")]
Port = Annotated[int, Field(ge=0, le=65535)]
Host = Annotated[str, Field(min_length=1)]


class Caller(_Table):
    """Who may open an association.

    Attributes:
        ae_title: The calling AE title.
        network: The addresses it may come from; None means any.
    """

    ae_title: AeTitle
    network: IPv4Network | IPv6Network | None = None


def _caller(value: Any) -> Any:  # noqa: ANN401 - whatever stands in the file
    """Read a bare AE title as a caller from any network."""
    return {"ae_title": value} if isinstance(value, str) else value


class ReceiverSettings(_Table):
    """The Storage SCP: see node.toml for each key."""

    ae_title: AeTitle
    host: Host
    port: Port
    processes: int = Field(ge=1, le=64)
    max_associations: int = Field(ge=1, le=1000)
    allowed_callers: tuple[Annotated[Caller, BeforeValidator(_caller)], ...]
    max_study_age_days: int = Field(ge=0)
    for_processing: bool
    max_instance_mb: int = Field(ge=1, le=4096)


def _named(value: Any) -> Any:  # noqa: ANN401 - whatever stands in the file
    if value in ("", None):
        raise ValueError("name a folder")
    return value


class StorageSettings(_Table):
    """Where instances, results and the journal lie: see node.toml for each key."""

    directory: Annotated[Path, BeforeValidator(_named)]
    database: str = Field(pattern=r"^$|^postgresql(\+psycopg)?://")
    min_free_mb: int = Field(ge=0)

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL of the database: PostgreSQL's, or a file of ours."""
        if not self.database:
            return f"sqlite:///{self.directory.absolute() / 'node.sqlite'}"
        return self.database.replace("postgresql://", "postgresql+psycopg://", 1)


class ModelSettings(_Table):
    """Which weights answer: see node.toml for each key."""

    weights: Path | None
    device: str = Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")


class WorkerSettings(_Table):
    """The processes that analyze and deliver: see node.toml for each key."""

    processes: int = Field(ge=1, le=64)
    decode_timeout_s: float = Field(gt=0)
    decode_memory_mb: int = Field(ge=512)
    max_megapixels: int = Field(ge=1)
    window: int = Field(ge=1)


class ResultSettings(_Table):
    """How results look: see node.toml for each key."""

    long_side: int = Field(ge=256, le=8192)
    series_number: int = Field(ge=1, le=2**31 - 1)


class ApiSettings(_Table):
    """The web side: see node.toml for each key."""

    host: Host
    port: Port


ResultKind = Literal[
    "secondary_capture", "presentation_state", "structured_report", "heatmap"
]


class Destination(_Table):
    """One place that results go to.

    Attributes:
        name: What people, the journal and the commands call it.
        type: "dicom": C-STORE to a fixed AE.
        ae_title: Its AE title.
        host: Its address.
        port: Its port.
        results: The kinds of result it gets.
        retry_days: How long a delivery is retried before it is failed for good.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")
    type: Literal["dicom"]
    ae_title: AeTitle
    host: Host
    port: Annotated[int, Field(ge=1, le=65535)]
    results: tuple[ResultKind, ...] = Field(
        default=("secondary_capture",), min_length=1
    )
    retry_days: float = Field(default=3, gt=0)


def _names_are_unique(given: tuple[Destination, ...]) -> tuple[Destination, ...]:
    names = [each.name for each in given]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two destinations are named {', '.join(sorted(twice))}")
    return given


class Settings(_Table):
    """Everything that can be set."""

    receiver: ReceiverSettings
    storage: StorageSettings
    model: ModelSettings
    worker: WorkerSettings
    results: ResultSettings
    api: ApiSettings
    destinations: Annotated[
        tuple[Destination, ...], AfterValidator(_names_are_unique)
    ] = ()


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    Args:
        path: The TOML file; keys that it leaves out have the defaults of node.toml,
            but for destinations, which are only those of the file. None means
            node.toml itself. Paths in it are relative to its folder, those of
            node.toml to the working directory.
        environment: Where FRACTURE_NODE__SECTION__KEY variables override the file.

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
    wrong = list(_override(tables, environment))
    try:
        settings = Settings.model_validate(_located(tables, path))
    except ValidationError as error:
        wrong += explained(error, Settings)
    if wrong:
        where = path or "the packaged node.toml"
        lines = "\n".join(f"  {line}" for line in wrong)
        raise SettingsError(f"{where} cannot be used:\n{lines}")
    return settings


def _defaults() -> dict[str, Any]:
    return tomllib.loads(files("config").joinpath("node.toml").read_text("utf-8"))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise SettingsError(
            f"{path} does not exist. Name an existing file with --config, or leave "
            "--config away to run with the defaults."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"{path} cannot be read as TOML: {error}") from None


def _override(tables: dict[str, Any], environment: Mapping[str, str]) -> Iterator[str]:
    """Lay the environment over the tables, yielding what cannot be laid there.

    A name that nobody knows is reported with the wrong keys of the file.
    """
    for name, value in environment.items():
        if not name.upper().startswith(PREFIX):
            continue
        section, _, key = name[len(PREFIX) :].lower().partition("__")
        table = tables.get(section, {})
        if not key:
            yield f"{name}: names no key; say {PREFIX}SECTION__KEY"
        elif isinstance(table, list) or (
            isinstance(table, dict) and isinstance(table.get(key), list)
        ):
            yield f"{name}: is a list; set it in the file"
        elif isinstance(table, dict):
            tables[section] = {**table, key: value}


def _located(tables: dict[str, Any], path: Path | None) -> dict[str, Any]:
    """Make the paths of the file relative to the file's folder."""
    folder = Path() if path is None else path.parent
    located = {**tables}
    for section, key in (("storage", "directory"), ("model", "weights")):
        table = located.get(section)
        if isinstance(table, dict) and isinstance(table.get(key), str):
            text = table[key]
            value = folder / _at_home(text) if text else None
            located[section] = {**table, key: value}
    return located


def _at_home(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # a user whom nobody knows: a folder of that name, then
        return Path(text)
