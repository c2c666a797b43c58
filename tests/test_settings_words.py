"""Every error that a wrong setting can cause is a sentence in our own words."""

import json
from pathlib import Path
from typing import Any

import pytest

from config.expectation import alternatives, item_of, keys_of
from config.settings import PREFIX, Settings, SettingsError, load
from inference.training.recipe import read_recipe
from models.card import ModelError, read_card

SECRET = "hidden-t0ken"  # noqa: S105
# What pydantic, re and tomllib would say, and what only a developer would understand.
FOREIGN = (
    *("pydantic", "Tuple", "tuple", "string_pattern", "pattern", "regex", "^", "$"),
    *("validation error", "Input should", "Input is", "a valid ", "Field required"),
    *("http", "lax-or-strict", "Error", "<class", "dict", "instance of", "None", "loc"),
    *("Traceback", "codec", "('", "discriminator", "\0"),
)
OURS = (
    "say https://",
    "or https://",
    "http:// would send",
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
SIMPLE = [
    (section, key)
    for section, table in keys_of(Settings).items()
    if section != "destinations"
    for key in keys_of(alternatives(table)[0])
]


PEER = 'ae_title = "A", host = "h", port = 1'
# Tables that stand in lists, with a place for one more key.
NESTED = {
    "receiver.allowed_callers.0": 'ae_title = "A"',
    "api.tokens.0": f'name = "a", role = "viewer", sha256 = "{"0" * 64}"',
    "destinations.0": f'name = "a", type = "dicom", {PEER}',
    "destinations.0 sender": f'name = "a", type = "sender", peers = [{{ {PEER} }}]',
    "destinations.0 stow": 'name = "a", type = "stow", url = "https://h/x"',
    "destinations.0.peers.0": PEER,
}


def nested(table: str, pairs: str) -> str:
    """Settings in which a table of a list holds these keys."""
    place = table.split(" ", maxsplit=1)[0]
    if place == "destinations.0.peers.0":
        pairs = f'name = "a", type = "sender", peers = [{{ {pairs} }}]'
    if place.startswith("destinations"):
        return f"destinations = [{{ {pairs} }}]\n"
    section, key, _ = place.split(".")
    return f"[{section}]\n{key} = [{{ {pairs} }}]\n"


def type_at(table: str) -> Any:  # noqa: ANN401 - a class
    """The class of a table of a list."""
    place, _, tag = table.partition(" ")
    wanted: Any = Settings
    for part in place.split("."):
        options = alternatives(wanted)
        if place == "destinations.0.peers.0" and len(options) > 1:
            options = [each for each in options if "peers" in keys_of(each)]
        wanted = item_of(options[0], 0) if part == "0" else keys_of(options[0])[part]
    options = alternatives(wanted)
    named = [each for each in options if tag and tag in each.__name__.lower()]
    return (named or options)[0]


def error(file: Path, text: str, environment: dict[str, str]) -> str:
    """What is said of settings; nothing if they are right."""
    file.write_text(text, "utf-8")
    try:
        load(file, environment)
    except SettingsError as wrong:
        return str(wrong)
    return ""


def check(said: str, source: str, key: str) -> None:
    """Check an error: its source, its key, its words."""
    heading, *lines = said.splitlines()
    assert heading == f"{source} cannot be used:"
    assert any(line.startswith(f"  {key}") for line in lines), said
    for phrase in OURS:
        said = said.replace(phrase, "…")
    for line in said.replace(source, "").splitlines():
        assert not [word for word in FOREIGN if word in line], line
    for line in lines:
        assert ": " in line
        assert len(line) < 500


@pytest.mark.parametrize(("section", "key"), SIMPLE)
def test_a_wrong_value_of_a_key_is_told_in_our_words(
    section: str, key: str, tmp_path: Path
) -> None:
    file, wrong = tmp_path / "node.toml", 0
    for value in WRONG.values():
        said = error(file, f"[{section}]\n{key} = {value}\n", {})
        if said:
            wrong += 1
            check(said, str(file), section)
            if key in {"database", "tokens"}:
                assert SECRET not in said

    assert wrong >= 8


@pytest.mark.parametrize(("section", "key"), SIMPLE)
def test_a_wrong_variable_is_told_in_our_words_and_named(
    section: str, key: str, tmp_path: Path
) -> None:
    name = f"{PREFIX}{section}__{key}".upper()
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
        said = error(file, "", {name: value})
        if said:
            wrong += 1
            both = f"{file}, together with the environment variable {name},"
            source = both if both in said else f"The environment variable {name}"
            check(said, source, name if "is a list" in said else section)
            if key in {"database", "tokens"}:
                assert SECRET not in said

    assert wrong >= 1


@pytest.mark.parametrize("table", NESTED)
def test_a_wrong_value_in_a_table_of_a_list_is_told_in_our_words(
    table: str, tmp_path: Path
) -> None:
    file = tmp_path / "node.toml"
    assert error(file, nested(table, NESTED[table]), {}) == ""
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
            said = error(
                file, nested(table, ", ".join([*others, f"{key} = {value}"])), {}
            )
            if said:
                wrong += 1
                check(said, str(file), table.split(" ", maxsplit=1)[0])
                is_secret = key.endswith(("_env", "env", "url")) or "tokens" in table
                assert not (is_secret and SECRET in said)
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
def test_a_wrong_table_is_told_in_our_words(
    text: str, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "node.toml"
    said = error(file, text + "\n", {})

    check(said, str(file), words)


def test_what_file_and_environment_contradict_each_other_in_names_both(
    tmp_path: Path,
) -> None:
    file = tmp_path / "node.toml"
    name = "FRACTURE_NODE__API__PROXY_USER_HEADER"

    said = error(file, "", {name: "X-User"})
    packaged = ""
    try:
        load(None, {name: "X-User"})
    except SettingsError as wrong:
        packaged = str(wrong)

    assert said.startswith(f"{file}, together with the environment variable {name},")
    assert packaged.startswith(
        f"The packaged node.toml, together with the environment variable {name}, cannot"
    )


def test_what_is_wrong_in_the_file_and_in_the_environment_is_told_of_each(
    tmp_path: Path,
) -> None:
    file = tmp_path / "node.toml"
    environment = {"FRACTURE_NODE__API__PORT": "x", "FRACTURE_NODE__PORT": "1"}

    lines = error(file, "[receiver]\nport = -1\n", environment).splitlines()

    assert lines == [
        "The environment variable FRACTURE_NODE__PORT cannot be used:",
        "  FRACTURE_NODE__PORT: names no key; say FRACTURE_NODE__SECTION__KEY",
        f"{file} cannot be used:",
        "  receiver.port: found -1; expected a whole number from 0 to 65535",
        "The environment variable FRACTURE_NODE__API__PORT cannot be used:",
        "  api.port: found 'x'; expected a whole number from 0 to 65535",
    ]


def test_a_wrong_variable_is_not_blamed_on_the_packaged_file() -> None:
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
@pytest.mark.parametrize("what", ["settings", "card", "recipe"])
def test_a_file_that_is_no_toml_is_told_in_our_words(
    what: str, content: bytes, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "node.toml"
    file.write_bytes(content)
    read = {"settings": load, "card": read_card, "recipe": read_recipe}[what]

    with pytest.raises((SettingsError, ModelError)) as wrong:
        read(file, {}) if what == "settings" else read(file)

    said = str(wrong.value)
    assert f"{file} cannot be read as TOML: " in said
    assert words in said
    assert SECRET not in said
    assert not [word for word in FOREIGN if word in said.replace(str(file), "")], said


def test_a_file_that_cannot_be_read_is_told_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.symlink_to(file)

    said = []
    for path in (tmp_path, tmp_path / "absent.toml", file, file / "x"):
        with pytest.raises(SettingsError) as wrong:
            load(path, {})
        said.append(str(wrong.value).replace(str(path), "PATH"))

    do = "Name a file that this user can read."
    absent = (
        "PATH does not exist. Name an existing file with --config, or leave --config "
        "away to run with the defaults."
    )
    assert said == [
        f"PATH cannot be read: Is a directory. {do}",
        absent,
        f"PATH cannot be read: Too many levels of symbolic links. {do}",
        f"PATH cannot be read: Too many levels of symbolic links. {do}",
    ]
