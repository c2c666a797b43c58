"""Errors about wrong settings are in plain words, without phrases of libraries."""

import json
from pathlib import Path
from typing import Any

import pytest

from config.expectation import alternatives, item_of, keys_of
from config.settings import ENVIRONMENT_PREFIX, Settings, SettingsError, load
from inference.training.recipe import read_recipe
from models.card import ModelError, read_card

SECRET = "hidden-t0ken"  # noqa: S105
# Phrases of pydantic, re and tomllib, and phrases that only a developer understands.
FOREIGN_PHRASES = (
    *("pydantic", "Tuple", "tuple", "string_pattern", "pattern", "regex", "^", "$"),
    *("validation error", "Input should", "Input is", "a valid ", "Field required"),
    *("http", "lax-or-strict", "Error", "<class", "dict", "instance of", "None", "loc"),
    *("Traceback", "codec", "('", "discriminator", "\0"),
)
OWN_PHRASES = (
    "expected https://",
    "or https://",
    "http:// sends",
    "HTTP header",
    "locked",
    "loopback",
)

WRONG = {
    "a number": "5",
    "a negative number": "-1",
    "zero": "0",
    "a large number": str(10**30),
    "a fraction": "1.5",
    "not a number": "nan",
    "infinity": "inf",
    "a boolean": "true",
    "a text": json.dumps(SECRET),
    "no text": '""',
    "a long text": json.dumps("ü" * 150),
    "a text of control characters": r'"\u0000\n"',
    "a list": "[]",
    "a list of numbers": "[5]",
    "a list of texts": json.dumps([SECRET, ""]),
    "a list of tables": "[{ }]",
    "a table": '{ type = "x" }',
    "a date": "2020-02-30T00:00:00Z".replace("30", "28"),
}
KEYS = [
    (section, key)
    for section, table in keys_of(Settings).items()
    if section != "destinations"
    for key in keys_of(alternatives(table)[0])
]


PEER = 'ae_title = "A", host = "h", port = 1'
# Valid tables in lists, by path. If a word follows the path, it is the type of the
# destination.
NESTED = {
    "receiver.allowed_callers.0": 'ae_title = "A"',
    "api.tokens.0": f'name = "a", role = "viewer", sha256 = "{"0" * 64}"',
    "destinations.0": f'name = "a", type = "dicom", {PEER}',
    "destinations.0 sender": f'name = "a", type = "sender", peers = [{{ {PEER} }}]',
    "destinations.0 stow": 'name = "a", type = "stow", url = "https://h/x"',
    "destinations.0.peers.0": PEER,
}


def nested(table: str, pairs: str) -> str:
    """Return the text of settings with one table in a list.

    Args:
        table: A key of NESTED: where the table is.
        pairs: The content of the table, as `key = value, …`.
    """
    path = table.split(" ", maxsplit=1)[0]
    if path == "destinations.0.peers.0":
        pairs = f'name = "a", type = "sender", peers = [{{ {pairs} }}]'
    if path.startswith("destinations"):
        return f"destinations = [{{ {pairs} }}]\n"
    section, key, _ = path.split(".")
    return f"[{section}]\n{key} = [{{ {pairs} }}]\n"


def type_at(table: str) -> Any:  # noqa: ANN401 - a class
    """Return the settings class of a table in a list; `table` is a key of NESTED."""
    path, _, tag = table.partition(" ")
    wanted: Any = Settings
    for part in path.split("."):
        options = alternatives(wanted)
        if path == "destinations.0.peers.0" and len(options) > 1:
            options = [each for each in options if "peers" in keys_of(each)]
        wanted = item_of(options[0], 0) if part == "0" else keys_of(options[0])[part]
    options = alternatives(wanted)
    named = [each for each in options if tag and tag in each.__name__.lower()]
    return (named or options)[0]


def error_of(file: Path, text: str, environment: dict[str, str]) -> str:
    """Return the message of the error for settings; an empty text if there is none."""
    file.write_text(text, "utf-8")
    try:
        load(file, environment)
    except SettingsError as wrong:
        return str(wrong)
    return ""


def check(message: str, source: str, key: str) -> None:
    """Assert that an error message is plain, and names its source and a key.

    Args:
        message: The message of the error.
        source: What cannot be used, such as the path of the file. The first line of the
            message names it.
        key: The beginning of one of the other lines.
    """
    heading, *lines = message.splitlines()
    assert heading == f"{source} cannot be used:"
    assert any(line.startswith(f"  {key}") for line in lines), message
    for phrase in OWN_PHRASES:
        message = message.replace(phrase, "…")
    for line in message.replace(source, "").splitlines():
        assert not [word for word in FOREIGN_PHRASES if word in line], line
    for line in lines:
        assert ": " in line
        assert len(line) < 500


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_wrong_value_of_a_key_gets_a_plain_error(
    section: str, key: str, tmp_path: Path
) -> None:
    file, wrong = tmp_path / "node.toml", 0
    for value in WRONG.values():
        message = error_of(file, f"[{section}]\n{key} = {value}\n", {})
        if message:
            wrong += 1
            check(message, str(file), section)
            if key in {"database", "tokens"}:
                assert SECRET not in message

    assert wrong >= 8


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_wrong_environment_variable_gets_a_plain_error_with_its_name(
    section: str, key: str, tmp_path: Path
) -> None:
    name = f"{ENVIRONMENT_PREFIX}{section}__{key}".upper()
    file, wrong = tmp_path / "node.toml", 0
    for value in (
        "",
        "x y",
        SECRET,
        "-1",
        "1.5",
        "nan",
        "[]",
        "\udcff",
        "a\0",
        "9" * 99,
    ):
        message = error_of(file, "", {name: value})
        if message:
            wrong += 1
            both = f"{file}, together with the environment variable {name},"
            source = both if both in message else f"The environment variable {name}"
            check(message, source, name if "is a list" in message else section)
            if key in {"database", "tokens"}:
                assert SECRET not in message

    assert wrong >= 1


@pytest.mark.parametrize("table", NESTED)
def test_wrong_value_in_a_table_of_a_list_gets_a_plain_error(
    table: str, tmp_path: Path
) -> None:
    file = tmp_path / "node.toml"
    assert error_of(file, nested(table, NESTED[table]), {}) == ""
    for key in keys_of(type_at(table)):
        others = [
            each
            for each in NESTED[table].replace("[{ ", "[{").split(", ")
            if not each.startswith(f"{key} =")
        ]
        if key == "peers":
            others = others[:2]
        wrong = 0
        for value in WRONG.values():
            message = error_of(
                file, nested(table, ", ".join([*others, f"{key} = {value}"])), {}
            )
            if message:
                wrong += 1
                check(message, str(file), table.split(" ", maxsplit=1)[0])
                is_secret = key.endswith(("_env", "env", "url")) or "tokens" in table
                assert not (is_secret and SECRET in message)
        assert wrong >= 7, key


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("receiver = 5", "receiver: found 5; expected a table of keys"),
        ("[[receiver]]", "receiver: found a list; expected a table of keys"),
        ("destinations = 5", "destinations: found 5; expected a list, each of them a"),
        ("destinations = [5]", "destinations.0: found 5; expected a table of keys"),
        ("api = 2020-01-01", "api: found a date or time; expected a table of keys"),
        ('[receiver]\n"a\\u0000" = 1', r"receiver.'a\x00': no such key"),
    ],
)
def test_wrong_table_gets_a_plain_error(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    message = error_of(file, text + "\n", {})

    check(message, str(file), words)


def test_contradiction_of_file_and_environment_names_both(
    tmp_path: Path,
) -> None:
    file = tmp_path / "node.toml"
    name = "FRACTURE_NODE__API__PROXY_USER_HEADER"

    message = error_of(file, "", {name: "X-User"})
    packaged = ""
    try:
        load(None, {name: "X-User"})
    except SettingsError as wrong:
        packaged = str(wrong)

    assert message.startswith(f"{file}, together with the environment variable {name},")
    assert packaged.startswith(
        f"The packaged node.toml, together with the environment variable {name}, cannot"
    )


def test_errors_of_file_and_environment_are_listed_separately(
    tmp_path: Path,
) -> None:
    file = tmp_path / "node.toml"
    environment = {"FRACTURE_NODE__API__PORT": "x", "FRACTURE_NODE__PORT": "1"}

    lines = error_of(file, "[receiver]\nport = -1\n", environment).splitlines()

    assert lines == [
        "The environment variable FRACTURE_NODE__PORT cannot be used:",
        "  FRACTURE_NODE__PORT: contains no key; expected FRACTURE_NODE__SECTION__KEY",
        f"{file} cannot be used:",
        "  receiver.port: found -1; expected a whole number from 0 to 65535",
        "The environment variable FRACTURE_NODE__API__PORT cannot be used:",
        "  api.port: found 'x'; expected a whole number from 0 to 65535",
    ]


def test_error_of_a_wrong_variable_does_not_name_the_packaged_file() -> None:
    with pytest.raises(SettingsError) as wrong:
        load(None, {"FRACTURE_NODE__LOG__FORMAT": "xml"})

    assert str(wrong.value).splitlines() == [
        "The environment variable FRACTURE_NODE__LOG__FORMAT cannot be used:",
        "  log.format: found 'xml'; expected 'text' or 'json'",
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[receiver\nport = 1", "Expected ']' at the end of a table declaration"),
        (b"[receiver]\n\nport 1", "Expected '=' after a key in a key/value pair"),
        (b"[receiver]\n[receiver]\n", "Cannot declare receiver twice"),
        (b"[a.b]\nc = 1\n[a]\nb.d = 2\n[a.b]\n", "line "),
        (b"port = " + b"9" * 5000, "cannot be read as TOML: "),
        (b"port = " + b"[" * 100_000, "nested too deeply"),
        (b"a = '" + SECRET.encode(), "at end of document"),
        (b'x = 1\n[receiver]\nhost = "\xff"', "line 3 is not UTF-8. Save"),
        ('[api]\nhost = "é"'.encode("utf-16"), "line 1 is not UTF-8. Save the file"),
        (b"\x00\x01\x02", "line 1"),
        (b"PK\x03\x04", "line 1"),
    ],
)
@pytest.mark.parametrize("kind", ["settings", "card", "recipe"])
def test_invalid_toml_gets_a_plain_error(
    kind: str, content: bytes, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "node.toml"
    file.write_bytes(content)
    read = {"settings": load, "card": read_card, "recipe": read_recipe}[kind]

    with pytest.raises((SettingsError, ModelError)) as wrong:
        read(file, {}) if kind == "settings" else read(file)

    message = str(wrong.value)
    assert f"{file} cannot be read as TOML: " in message
    assert words in message
    assert SECRET not in message
    assert not [
        word for word in FOREIGN_PHRASES if word in message.replace(str(file), "")
    ], message


def test_error_of_an_unreadable_file_states_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.symlink_to(file)

    messages = []
    for path in (tmp_path, tmp_path / "absent.toml", file, file / "x"):
        with pytest.raises(SettingsError) as wrong:
            load(path, {})
        messages.append(str(wrong.value).replace(str(path), "PATH"))

    do = "Name a file that this user can read."
    absent = (
        "PATH does not exist. Name an existing file with --config, or omit --config "
        "to run with the defaults."
    )
    assert messages == [
        f"PATH cannot be read: Is a directory. {do}",
        absent,
        f"PATH cannot be read: Too many levels of symbolic links. {do}",
        f"PATH cannot be read: Too many levels of symbolic links. {do}",
    ]
