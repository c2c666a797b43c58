"""`fracture-node token`, and roles that refuse to start without access settings."""

import re
import sys
from pathlib import Path
from threading import Event

import pytest

import api.__main__
from api.auth.access import Access
from config.settings import load
from dicom_node.commands import check, node, token
from tests.support.http_client import Site, bearing

ALL_ADDRESSES = '[api]\nhost = "0.0.0.0"\n'


def create_token(
    capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[str, str]:
    """Create a token; return the token, and the line for the settings."""
    sys.argv = ["token", *arguments]
    token.main()
    output = capsys.readouterr().out
    (text,) = re.findall(r"(?m)^  ([\w-]+)$", output)
    (line,) = re.findall(r"(?m)^  ({.*},)$", output)
    return text, line


@pytest.fixture(autouse=True)
def _arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])
    # The setup of a role would change the test process.
    for module in (api.__main__, node):
        monkeypatch.setattr(module, "begin_role", lambda *_, **__: Event())
    monkeypatch.setattr(check, "keep_files_private", lambda: None)


def test_printed_line_gives_access_to_the_holder_of_the_token(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    viewer_token, first = create_token(capsys, "looking", "--role=viewer")
    operator_token, second = create_token(capsys, "acting", "--role", "operator")

    site = Site(tmp_path, f"tokens = [\n{first}\n{second}\n]\n")
    assert len(viewer_token) == len(operator_token) == 43  # 256 bits, 6 per character
    assert viewer_token not in first
    assert site.ask("GET", "/docs", bearing(viewer_token)).status_code == 200
    settings = load(tmp_path / "node.toml", {})
    access = Access(settings.api, settings.storage.directory)
    found = [access.token(each) for each in (viewer_token, operator_token)]
    assert [(each.name, each.role) for each in found if each] == [
        ("looking", "viewer"),
        ("acting", "operator"),
    ]


@pytest.mark.parametrize("name", ["", "Anna", "two words", 'a", role = "operator'])
def test_invalid_token_name_is_refused(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        create_token(capsys, name, "--role=viewer")

    output = capsys.readouterr()
    assert "expected 1 to 32 characters of a-z" in output.err
    assert output.out == ""


@pytest.mark.parametrize("main", [api.__main__.main, node.run])
def test_role_does_not_start_on_all_addresses_without_access_settings(
    main: object, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "node.toml"
    config.write_text(ALL_ADDRESSES)
    sys.argv = ["role", f"--config={config}"]

    assert callable(main)
    with pytest.raises(SystemExit, match="2"):
        main()

    assert "no user is configured" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == [config]


@pytest.mark.integration
@pytest.mark.usefixtures("common_decoders")
def test_check_reports_the_access_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(check, "_model", lambda _: "ok")
    config = tmp_path / "node.toml"
    results = []
    for text in (
        "",
        ALL_ADDRESSES,
        ALL_ADDRESSES + create_token(capsys, "a", "--role=viewer")[1],
    ):
        config.write_text(re.sub("{.*},", r"tokens = [\g<0>]", text))
        sys.argv = ["check", f"--config={config}"]
        with pytest.raises(SystemExit) as end:
            check.main()
        (line,) = re.findall("(?m)^access: .*$", capsys.readouterr().out)
        results.append((end.value.code, line))

    assert results[0] == (
        0,
        "access: ok, anyone on this machine may use the page (127.0.0.1)",
    )
    assert results[1][0] == 1
    assert "no user is configured" in results[1][1]
    assert results[2] == (0, "access: ok, only users in the settings may use the page")
