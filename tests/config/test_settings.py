"""Reading of settings. All errors in invalid settings are reported at once."""

import json
import re
import subprocess
import tomllib
from collections.abc import Callable
from importlib.resources import files
from ipaddress import ip_network
from pathlib import Path

import pytest

from config.destinations import (
    Address,
    DicomDestination,
    Hl7Destination,
    Secret,
    SenderDestination,
    StowDestination,
)
from config.settings import Caller, Settings, SettingsError, load
from tests.support.certificates import Certificates

PACS = """
[[destinations]]
name = "pacs"
type = "dicom"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = 4242
"""


def packaged(name: str) -> str:
    return files("config").joinpath(name).read_text("utf-8")


def read(tmp_path: Path, text: str, **environment: str) -> Settings:
    file = tmp_path / "node.toml"
    file.write_text(text, "utf-8")
    return load(file, environment)


def reported_errors(tmp_path: Path, text: str, **environment: str) -> list[str]:
    """Return the lines of the error message for settings, without the heading."""
    with pytest.raises(SettingsError, match=r"node\.toml cannot be used") as caught:
        read(tmp_path, text, **environment)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


DESTINATIONS = {
    "dicom": DicomDestination,
    "sender": SenderDestination,
    "stow": StowDestination,
    "hl7": Hl7Destination,
}
OF_EVERY_TYPE = {
    *("name", "type", "results", "retry_days"),
    *("send_negative", "modality", "transfer_syntax", "commitment"),
}


def with_examples() -> str:
    """Return the text of the packaged node.toml, with its examples uncommented."""
    return re.sub("(?m)^#(?! )", "", packaged("node.toml")).replace("#    {", "    {")


def test_packaged_file_lists_every_key_and_no_other() -> None:
    listed = tomllib.loads(packaged("node.toml"))
    tables = Settings.model_fields.keys() - {"destinations"}

    assert listed.keys() == Settings.model_fields.keys()
    for name in tables:
        table = Settings.model_fields[name].annotation
        assert table is not None
        assert listed[name].keys() == table.model_fields.keys()


def test_packaged_file_lists_every_key_of_every_type_of_destination() -> None:
    listed = tomllib.loads(with_examples())["destinations"]

    assert {each["type"] for each in listed} == DESTINATIONS.keys()
    for each in listed:
        known = DESTINATIONS[each["type"]].model_fields.keys()
        assert each.keys() <= known
        # The other keys are explained for the first destination.
        assert known - each.keys() <= OF_EVERY_TYPE


def test_examples_of_the_packaged_file_can_be_used(tmp_path: Path) -> None:
    one_way = with_examples().replace('token_env = "PACS_TOKEN"', "")

    settings = read(tmp_path, one_way.replace('username = ""', 'username = "us"'))

    assert [each.type for each in settings.destinations] == [*DESTINATIONS]


def test_packaged_file_explains_every_key() -> None:
    lines = with_examples().splitlines()
    settings = [
        line for line in lines if " = " in line and not line.startswith(("#", " "))
    ]
    unexplained = [line for line in settings if "#" not in line]

    # The keys of an address need no comment, and a name has its comment only once.
    assert {line.split()[0] for line in unexplained} <= {
        *("ae_title", "host", "port", "name")
    }


def test_packaged_defaults_of_destinations_are_those_of_the_code() -> None:
    given = tomllib.loads(packaged("node.toml"))["destinations"][0]
    required = {key: given[key] for key in ("name", "type", "ae_title", "host", "port")}

    assert DicomDestination(**given) == DicomDestination(**required)


@pytest.mark.parametrize(
    "name", [f.name for f in files("config").iterdir() if f.name.endswith(".toml")]
)
def test_every_packaged_file_can_be_used(name: str, tmp_path: Path) -> None:
    assert read(tmp_path, packaged(name)).receiver.ae_title


def test_packaged_file_is_used_if_no_file_is_given() -> None:
    settings = load(None, {})

    assert settings.receiver.port == 11112
    assert settings.storage.directory == Path("data")
    assert settings.model.weights is None
    assert [each.name for each in settings.destinations] == ["pacs"]


def test_omitted_keys_have_their_defaults(tmp_path: Path) -> None:
    settings = read(tmp_path, "[receiver]\nport = 104\n")

    assert settings.receiver.port == 104
    assert settings.receiver.ae_title == "FRACTURE_AI"


def test_file_without_destinations_has_none(tmp_path: Path) -> None:
    assert read(tmp_path, "").destinations == ()


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = read(tmp_path, "")

    with pytest.raises(ValueError, match="frozen"):
        settings.receiver.port = 1  # type: ignore[misc]


def test_missing_file_is_an_error_and_not_a_default(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml does not exist"):
        load(tmp_path / "absent.toml", {})


@pytest.mark.parametrize(
    "content",
    [b"[receiver\nport = 1", b'[receiver]\nhost = "\xff"'],
    ids=["no TOML", "no UTF-8"],
)
def test_file_that_is_no_toml_is_reported(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_bytes(content)

    with pytest.raises(SettingsError, match=r"bad\.toml cannot be read as TOML"):
        load(tmp_path / "bad.toml", {})


def test_folder_instead_of_a_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Is a directory"):
        load(tmp_path, {})


def test_every_wrong_key_is_reported_at_once(tmp_path: Path) -> None:
    errors = reported_errors(
        tmp_path,
        "[reciever]\nport = 1\n"
        '[receiver]\nprot = 104\nport = "many"\nprocesses = 0\n'
        '[model]\ndevice = "gpu"\n'
        '[[destinations]]\nname = "pacs"\ntype = "dicom"\nae_titel = "A"\n'
        'host = "h"\nport = 1\n',
    )

    assert {line.split(":")[0] for line in errors} == {
        "reciever",
        "receiver.prot",
        "receiver.port",
        "receiver.processes",
        "model.device",
        "destinations.0.ae_title",
        "destinations.0.ae_titel",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[reciever]\n", "reciever: no such key; did you mean receiver?"),
        (
            "[receiver]\nprot = 104\n",
            "receiver.prot: no such key; did you mean port?",
        ),
        ("[receiver]\nxyzzy = 1\n", "receiver.xyzzy: no such key"),
        (
            PACS + "retrydays = 3\n",
            "destinations.0.retrydays: no such key; did you mean retry_days?",
        ),
        (
            '[[destinations]]\nname = "p"\ntype = "dicom"\nhost = "h"\nport = 1\n',
            "destinations.0.ae_title: missing; it has no default",
        ),
    ],
)
def test_unknown_and_missing_keys_are_reported_with_a_suggestion(
    text: str, message: str, tmp_path: Path
) -> None:
    assert reported_errors(tmp_path, text) == [message]


@pytest.mark.parametrize(
    ("section", "line", "expected"),
    [
        (
            "receiver",
            "port = 65536",
            "found 65536; expected a whole number from 0 to 65535",
        ),
        ("receiver", "port = -1", "found -1; expected a whole number from 0 to 65535"),
        ("receiver", 'port = "x"', "found 'x'; expected a whole number from 0 to"),
        ("receiver", "processes = 0", "found 0; expected a whole number from 1 to 64"),
        (
            "receiver",
            'for_processing = "maybe"',
            "found 'maybe'; expected true or false",
        ),
        (
            "receiver",
            "max_study_age_days = -7",
            "found -7; expected a whole number of at least 0",
        ),
        ("receiver", "allowed_callers = 5", "found 5; expected a list of AE titles"),
        (
            "storage",
            'database = "mysql://h/d"',
            "expected a URL that begins with postgresql://",
        ),
        (
            "model",
            'device = "gpu"',
            "found 'gpu'; expected 'auto', 'cpu', 'cuda' or 'cuda:1'",
        ),
        ("worker", "decode_timeout_s = 0", "found 0; expected a number above 0"),
        (
            "results",
            "long_side = 100",
            "found 100; expected a whole number from 256 to",
        ),
        (
            "results",
            "series_number = 2147483648",
            "expected a whole number from 1 to 2147483647",
        ),
    ],
)
def test_wrong_value_is_reported_with_the_expected_values(
    section: str, line: str, expected: str, tmp_path: Path
) -> None:
    (error,) = reported_errors(tmp_path, f"[{section}]\n{line}\n")

    assert error.startswith(f"{section}.{line.split(maxsplit=1)[0]}: ")
    assert expected in error


@pytest.mark.parametrize(
    "title",
    [
        "A",
        "FRACTURE_AI",
        "SIXTEEN_CHARS_16",
        "lower case",
        "a b",
        "~!@#$%^&*()_+",
        "[AE]",
    ],
)
def test_ae_title_that_ps3_5_allows_is_accepted(title: str, tmp_path: Path) -> None:
    settings = read(tmp_path, f"[receiver]\nae_title = '{title}'\n")

    assert settings.receiver.ae_title == title


@pytest.mark.parametrize(
    "title",
    [
        pytest.param("", id="empty"),
        pytest.param("SEVENTEEN_CHARS17", id="17 characters"),
        pytest.param("BACK\\\\SLASH", id="backslash"),
        pytest.param("MÜNCHEN", id="beyond the default repertoire"),
        pytest.param("TAB\\tTAB", id="control character"),
        pytest.param("LINE\\n", id="line end"),
        pytest.param(" LEADING", id="leading space"),
        pytest.param("TRAILING ", id="trailing space"),
        pytest.param("   ", id="spaces only"),
    ],
)
def test_ae_title_that_ps3_5_forbids_is_refused(title: str, tmp_path: Path) -> None:
    (error,) = reported_errors(tmp_path, f'[receiver]\nae_title = "{title}"\n')

    assert error.startswith("receiver.ae_title: found ")


def test_callers_are_titles_or_titles_with_a_network(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        "[receiver]\n"
        'allowed_callers = ["DX1", { ae_title = "DX2", network = "10.1.0.0/16" }]\n',
    )

    assert settings.receiver.allowed_callers == (
        Caller(ae_title="DX1"),
        Caller(ae_title="DX2", network=ip_network("10.1.0.0/16")),
    )


@pytest.mark.parametrize(
    ("written", "network"),
    [
        ("::ffff:10.1.0.5/128", "10.1.0.5/32"),
        ("::ffff:10.1.0.0/112", "10.1.0.0/16"),
        ("::/0", "::/0"),
        ("fd00::/8", "fd00::/8"),
    ],
)
def test_network_of_mapped_ipv4_addresses_is_an_ipv4_network(
    written: str, network: str, tmp_path: Path
) -> None:
    caller = f'{{ ae_title = "DX1", network = "{written}" }}'
    settings = read(tmp_path, f"[receiver]\nallowed_callers = [{caller}]\n")

    (listed,) = settings.receiver.allowed_callers
    assert listed.network == ip_network(network)


@pytest.mark.parametrize(
    "caller", ['""', '{ ae_title = "A", network = "10.1.0.1/16" }', "{ }", "5"]
)
def test_invalid_caller_is_refused(caller: str, tmp_path: Path) -> None:
    errors = reported_errors(tmp_path, f"[receiver]\nallowed_callers = [{caller}]\n")

    assert errors
    assert all(line.startswith("receiver.allowed_callers.0") for line in errors)


def test_two_destinations_of_one_name_are_refused(tmp_path: Path) -> None:
    errors = reported_errors(tmp_path, PACS + PACS)

    assert "two destinations are named pacs" in errors[0]


@pytest.mark.parametrize("name", ["", "PACS", "a b", "a:b", "-a", "x" * 33])
def test_invalid_name_of_a_destination_is_refused(name: str, tmp_path: Path) -> None:
    (error,) = reported_errors(tmp_path, PACS.replace('"pacs"', f'"{name}"'))

    assert error.startswith("destinations.0.name: found ")


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("port = 0", "port"),
        ('type = "sftp"', "type"),
        ("results = []", "results"),
        ('results = ["poem"]', "results.0"),
        ("retry_days = 0", "retry_days"),
        ('host = ""', "host"),
    ],
)
def test_destination_with_a_wrong_value_is_refused(
    line: str, key: str, tmp_path: Path
) -> None:
    kept = [each for each in PACS.splitlines() if each[:4] != line[:4]]

    errors = reported_errors(tmp_path, "\n".join([*kept, line]))

    assert errors[0].startswith(f"destinations.0.{key}: found ")


SENDER = """
[[destinations]]
name = "sender"
type = "sender"
peers = [{ ae_title = "DX_ROOM_1", host = "10.1.0.20", port = 104 }]
"""

STOW = """
[[destinations]]
name = "web"
type = "stow"
url = "https://pacs.example.org:8443/dicom-web/"
"""

RIS = """
[[destinations]]
name = "ris"
type = "hl7"
per = "image"
host = "10.1.0.30"
port = 2575
"""


@pytest.mark.parametrize(
    ("destination", "name"),
    [
        (PACS + 'results = ["exam_summary"]\n', "pacs"),
        (RIS.replace('"image"', '"examination"'), "ris"),
    ],
)
def test_destination_without_results_is_refused_if_no_examination_is_summarized(
    destination: str, name: str, tmp_path: Path
) -> None:
    (error,) = reported_errors(tmp_path, "[exam]\nquiet_s = 0\n" + destination)

    assert f"the destination {name} gets only results about examinations" in error
    assert read(tmp_path, "[exam]\nquiet_s = 1\n" + destination).exam.quiet_s == 1


def test_every_type_of_destination_has_its_own_keys(tmp_path: Path) -> None:
    own = 'token_env = "PACS_KEY"\nca_bundle = "own.pem"\n'
    text = PACS + SENDER + "retry_days = 1\n" + STOW + own

    pacs, sender, web = read(tmp_path, text, PACS_KEY="t0ken").destinations

    assert isinstance(pacs, DicomDestination)
    assert sender == SenderDestination(
        name="sender",
        type="sender",
        peers=(Address(ae_title="DX_ROOM_1", host="10.1.0.20", port=104),),
        retry_days=1,
    )
    assert web == StowDestination(
        name="web",
        type="stow",
        url="https://pacs.example.org:8443/dicom-web",
        token_env=Secret("PACS_KEY", "t0ken"),
        ca_bundle=tmp_path / "own.pem",
    )


def test_destinations_of_different_types_with_one_name_are_refused(
    tmp_path: Path,
) -> None:
    errors = reported_errors(tmp_path, SENDER + STOW.replace("web", "sender"))

    assert "two destinations are named sender" in errors[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            STOW + 'ae_title = "A"\n',
            "destinations.0.ae_title: no such key",
            id="key of another type",
        ),
        pytest.param(
            STOW + "retrydays = 3\n",
            "destinations.0.retrydays: no such key; did you mean retry_days?",
            id="misspelled key of every type",
        ),
        pytest.param(
            STOW + 'token = "secret"\n',
            "destinations.0.token: no such key; did you mean token_env?",
            id="secret in the file",
        ),
        pytest.param(
            SENDER.replace("port =", "prot = 1, port ="),
            "destinations.0.peers.0.prot: no such key; did you mean port?",
            id="misspelled key of a peer",
        ),
        pytest.param(
            SENDER.replace(", port = 104", ""),
            "destinations.0.peers.0.port: missing; it has no default",
            id="peer without port",
        ),
        pytest.param(
            STOW.replace("url", "#"),
            "destinations.0.url: missing; it has no default",
            id="no url",
        ),
        pytest.param(
            RIS + 'results = ["heatmap"]\n',
            "destinations.0.results: found ['heatmap']; expected an empty list; a "
            "message has the whole result",
            id="results of an HL7 destination",
        ),
        pytest.param(
            RIS + 'receiving_facility = "A|B"\n',
            "destinations.0.receiving_facility: found 'A|B'; expected at most 20 ASCII "
            "characters, without spaces and without | ^ & ~ and backslash",
            id="delimiter in the name of a facility",
        ),
        pytest.param(
            PACS.replace("type", "#"),
            "destinations.0.type: missing; it has no default",
            id="no type",
        ),
        pytest.param(
            PACS.replace('"dicom"', '"sftp"'),
            "destinations.0.type: found 'sftp'; expected 'dicom', 'sender', 'stow' or "
            "'hl7'",
            id="unknown type",
        ),
        pytest.param(
            PACS.replace('"dicom"', "5"),
            "destinations.0.type: found 5; expected 'dicom', 'sender', 'stow' or 'hl7'",
            id="type that is no text",
        ),
    ],
)
def test_wrong_key_of_a_destination_is_reported_with_its_path_in_the_file(
    text: str, message: str, tmp_path: Path
) -> None:
    assert reported_errors(tmp_path, text) == [message]


PEER = '{ ae_title = "A", host = "h", port = 1 }'


@pytest.mark.parametrize(
    ("peers", "expected"),
    [
        (f"{PEER}, {PEER}", "two peers have the AE title A"),
        ("", "expected at least one peer"),
    ],
)
def test_empty_and_repeated_peers_are_refused(
    peers: str, expected: str, tmp_path: Path
) -> None:
    (error,) = reported_errors(
        tmp_path, re.sub("peers = .*", f"peers = [{peers}]", SENDER)
    )

    assert error.startswith("destinations.0.peers: ")
    assert expected in error


@pytest.mark.parametrize(
    "url",
    [
        "https://h",
        "https://h/",
        "https://[::1]:8443/dicom-web",
        "http://127.0.0.1:8042/dicom-web",
        "http://[::1]/dicom-web",
        "http://localhost/dicom-web",
    ],
)
def test_url_of_a_service_with_https_or_loopback_is_accepted(
    url: str, tmp_path: Path
) -> None:
    text = re.sub("url = .*", f'url = "{url}"', STOW)

    (web,) = read(tmp_path, text).destinations

    assert isinstance(web, StowDestination)
    assert web.url == url.rstrip("/")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "http://pacs.example.org/dicom-web",
            "plain text and is allowed only for loopback",
        ),
        ("http://10.0.0.1/dicom-web", "plain text and is allowed only for loopback"),
        ("ftp://h/x", "expected https://"),
        ("pacs.example.org/dicom-web", "expected https://"),
        ("https:///x", "expected https://"),
        ("https://someone:hidden@h/x", "expected https://"),
        ("https://hidden@h/x", "expected https://"),
        ("https://h/x?key=hidden", "expected https://"),
        ("https://h/x#hidden", "expected https://"),
        ("https://h/x y", "expected https://"),
        ("https://h:99999/x", "expected https://"),
        ("https://someone:hidden/x", "expected https://"),
        ("https://h:/x", "expected https://"),
        ("https://h:0/x", "expected https://"),
        ("https://hänger/x", "expected https://"),
        ("", "expected https://"),
    ],
)
def test_invalid_url_is_refused_and_its_secret_is_not_quoted(
    url: str, expected: str, tmp_path: Path
) -> None:
    (error,) = reported_errors(tmp_path, re.sub("url = .*", f'url = "{url}"', STOW))

    assert error.startswith("destinations.0.url: ")
    assert expected in error
    assert "hidden" not in error


@pytest.mark.parametrize("key", ["token_env", "password_env"])
@pytest.mark.parametrize(
    "secret", ['"hidden-t0ken"', '"hidden"', "5", '{ value = "" }']
)
def test_secret_instead_of_a_variable_is_refused_and_not_quoted(
    key: str, secret: str, tmp_path: Path
) -> None:
    (error,) = reported_errors(tmp_path, f"{STOW}{key} = {secret}\n")

    assert error.startswith(f"destinations.0.{key}: ")
    assert "expected the name of an environment variable" in error
    assert "hidden" not in error


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('username = "us"', "username and password_env must be set together"),
        ('password_env = "PW"', "username and password_env must be set together"),
        (
            'username = "us"\npassword_env = "PW"\ntoken_env = "TOKEN"',
            "set either token_env, or username and password_env",
        ),
    ],
)
def test_incomplete_and_conflicting_authentication_is_refused(
    lines: str, expected: str, tmp_path: Path
) -> None:
    (error,) = reported_errors(tmp_path, STOW + lines)

    assert error.startswith("destinations.0: ")
    assert expected in error


def test_unset_variable_of_a_secret_is_accepted(tmp_path: Path) -> None:
    (web,) = read(tmp_path, STOW + 'token_env = "PACS_TOKEN"').destinations

    assert isinstance(web, StowDestination)
    assert web.token_env == Secret("PACS_TOKEN", "")


def test_secret_is_read_without_its_line_end_and_not_shown(tmp_path: Path) -> None:
    text = STOW + 'token_env = "PACS_KEY"'

    settings = read(tmp_path, text, PACS_KEY="hidden\n")

    (web,) = settings.destinations
    assert isinstance(web, StowDestination)
    assert web.token_env == Secret("PACS_KEY", "hidden")
    assert "hidden" not in repr(settings)


def test_environment_overrides_the_file(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        '[receiver]\nport = 104\nae_title = "FILE"\n',
        FRACTURE_NODE__RECEIVER__PORT="105",
        FRACTURE_NODE__RECEIVER__FOR_PROCESSING="true",
        FRACTURE_NODE__WORKER__DECODE_TIMEOUT_S="1.5",
    )

    assert settings.receiver.port == 105
    assert settings.receiver.for_processing is True
    assert settings.receiver.ae_title == "FILE"
    assert settings.worker.decode_timeout_s == 1.5


def test_environment_overrides_the_packaged_file() -> None:
    assert load(None, {"FRACTURE_NODE__API__PORT": "81"}).api.port == 81


def test_other_environment_variables_are_ignored(tmp_path: Path) -> None:
    environment = {"FRACTURE_NODE_PORT": "1", "RECEIVER__PORT": "2", "PATH": "/bin"}

    assert read(tmp_path, "", **environment) == read(tmp_path, "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "FRACTURE_NODE__RECEIVER__PROT",
            "receiver.prot: no such key; did you mean port?",
        ),
        (
            "FRACTURE_NODE__RECIEVER__PORT",
            "reciever: no such key; did you mean receiver?",
        ),
    ],
)
def test_misspelled_variable_is_an_error(
    name: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, "", **{name: "104"})

    heading = f"The environment variable {name} cannot be used:"
    assert str(caught.value).splitlines() == [heading, f"  {message}"]


@pytest.mark.parametrize(
    "name",
    ["FRACTURE_NODE__RECEIVER__ALLOWED_CALLERS", "FRACTURE_NODE__DESTINATIONS__PORT"],
)
def test_lists_come_from_the_file_only(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"{name}: is a list; set it in the file"):
        read(tmp_path, PACS, **{name: "A,B"})


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    settings = read(
        tmp_path, '[storage]\ndirectory = "here"\n[model]\nweights = "../w/m.pth"\n'
    )

    assert settings.storage.directory == tmp_path / "here"
    assert settings.model.weights == tmp_path / "../w/m.pth"


def test_absolute_paths_are_kept_and_home_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")

    settings = read(
        tmp_path, '[storage]\ndirectory = "/srv"\n[model]\nweights = "~/m.pth"\n'
    )

    assert settings.storage.directory == Path("/srv")
    assert settings.model.weights == Path("/home/someone/m.pth")


def test_no_weights_means_the_shipped_ones(tmp_path: Path) -> None:
    assert read(tmp_path, '[model]\nweights = ""\n').model.weights is None


def test_database_is_sqlite_inside_the_directory_unless_one_is_named(
    tmp_path: Path,
) -> None:
    default = read(tmp_path, '[storage]\ndirectory = "/srv"\n')
    named = read(tmp_path, '[storage]\ndatabase = "postgresql://u@h/d"\n')

    assert default.storage.database_url == "sqlite:////srv/node.sqlite"
    assert named.storage.database_url == "postgresql+psycopg://u@h/d"


def tls(certificates: Certificates, **changes: object) -> str:
    """Return the text of a [tls] section with a valid certificate and key.

    `changes` are other values of keys, or further keys.
    """
    given: dict[str, object] = {
        "certificate": certificates.node.certificate,
        "private_key": certificates.node.key,
        **changes,
    }
    lines = "".join(
        f"{key} = {json.dumps(value, default=str)}\n" for key, value in given.items()
    )
    return "[tls]\n" + lines


def test_tls_files_are_relative_to_the_settings_file_in_every_section(
    tmp_path: Path, certificates: Certificates
) -> None:
    for name, path in (
        ("ours.pem", certificates.node.certificate),
        ("ours.key", certificates.node.key),
        ("all.pem", certificates.authority.certificate),
    ):
        (tmp_path / name).write_bytes(path.read_bytes())
    keys = (
        "tls = true, tls_authorities = 'all.pem', tls_certificate = 'ours.pem', "
        "tls_private_key = 'ours.key'"
    )
    section = tls(
        certificates,
        certificate="ours.pem",
        private_key="ours.key",
        client_authorities="all.pem",
    )

    settings = read(
        tmp_path,
        section
        + PACS
        + keys.replace(", ", "\n")
        + SENDER.replace("port = 104", f"port = 104, {keys}"),
    )

    pacs, sender = settings.destinations
    assert isinstance(pacs, DicomDestination)
    assert isinstance(sender, SenderDestination)
    assert settings.tls.certificate == tmp_path / "ours.pem"
    assert settings.tls.private_key == tmp_path / "ours.key"
    assert settings.tls.client_authorities == tmp_path / "all.pem"
    for each in (pacs, sender.peers[0]):
        assert each.tls_authorities == tmp_path / "all.pem"
        assert each.tls_certificate == tmp_path / "ours.pem"
        assert each.tls_private_key == tmp_path / "ours.key"
        assert each.tls_check_host_name


def test_private_key_can_be_in_the_file_of_its_certificate(
    tmp_path: Path, certificates: Certificates
) -> None:
    both = tmp_path / "both.pem"
    pair = certificates.node
    both.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())

    section = tls(certificates, certificate=both, private_key="")

    assert read(tmp_path, section).tls.private_key is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"certificate": "absent.pem"}, "absent.pem or "),
        ({"certificate": "absent.pem"}, "cannot be read: No such file or directory"),
        ({"certificate": "no.pem"}, "cannot be used (not PEM); they must be PEM"),
        ({"private_key": "stranger"}, "(KEY_VALUES_MISMATCH); they must be PEM and"),
        ({"private_key": ""}, "cannot be used ("),
        ({"private_key": "locked"}, "the private key is encrypted, and the node"),
        ({"client_authorities": "absent.pem"}, "client_authorities: "),
        ({"client_authorities": "no.pem"}, "no.pem contains no PEM certificate"),
        ({"certificate": "", "private_key": ""}, ""),
        ({"certificate": ""}, "TLS needs a certificate; set certificate"),
        (
            {"certificate": "", "private_key": "", "only": True},
            "TLS needs a certificate; set certificate",
        ),
    ],
)
def test_unusable_tls_files_are_reported_and_not_quoted(
    changes: dict[str, object],
    expected: str,
    tmp_path: Path,
    certificates: Certificates,
    peer: Callable[[str], str],
) -> None:
    (tmp_path / "no.pem").write_text("hidden")
    locked = ["-aes128", "-passout", "pass:hidden", "-out", tmp_path / "locked"]
    key = ["pkey", "-in", certificates.node.key]
    subprocess.run([peer("openssl"), *key, *locked], check=True)
    if changes.get("private_key") == "stranger":
        changes = {"private_key": certificates.stranger.key}

    if not expected:
        assert read(tmp_path, tls(certificates, **changes)).tls.certificate is None
        return
    (error,) = reported_errors(tmp_path, tls(certificates, **changes))

    assert error.startswith("tls: ")
    assert expected in error
    assert "hidden" not in error


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("tls_check_host_name = false", "but tls = false; set tls = true"),
        ("tls_authorities = 'no.pem'", "but tls = false; set tls = true"),
        ("tls_certificate = 'no.pem'", "but tls = false; set tls = true"),
        ("tls = true\ntls_private_key = 'no.pem'", "but no tls_certificate"),
        ("tls = true\ntls_authorities = 'no.pem'", "contains no PEM certificate"),
        ("tls = true\ntls_certificate = 'no.pem'", "tls_certificate: "),
    ],
)
def test_unusable_tls_keys_of_a_destination_are_reported(
    lines: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "no.pem").write_text("hidden")

    (error,) = reported_errors(tmp_path, PACS + lines)

    assert error.startswith("destinations.0")
    assert expected in error
