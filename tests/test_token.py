"""`fracture-node token`, and what does not start before it is settled who may come."""

import re
import sys
from pathlib import Path
from threading import Event

import pytest

import api.__main__
from api.access import Access
from config.settings import load
from dicom_node import supervisor
from dicom_node.commands import check, token
from tests.asking import Site, bearing

EVERYWHERE = '[api]\nhost = "0.0.0.0"\n'


def made(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    """Make a token; gives it, and the line for the settings."""
    sys.argv = ["token", *arguments]
    token.main()
    said = capsys.readouterr().out
    (text,) = re.findall(r"(?m)^  ([\w-]+)$", said)
    (line,) = re.findall(r"(?m)^  ({.*},)$", said)
    return text, line


@pytest.fixture(autouse=True)
def _arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])
    # Without what would change this very process.
    for module in (api.__main__, supervisor):
        monkeypatch.setattr(module, "begin_role", lambda *_, **__: Event())
    monkeypatch.setattr(check, "keep_files_private", lambda: None)


def test_the_line_it_prints_lets_in_whoever_has_the_token(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    looking, first = made(capsys, "looking", "--role=viewer")
    acting, second = made(capsys, "acting", "--role", "operator")

    site = Site(tmp_path, f"tokens = [\n{first}\n{second}\n]\n")
    assert len(looking) == len(acting) == 43  # 256 bits, 6 a character
    assert looking not in first
    assert site.ask("GET", "/docs", bearing(looking)).status_code == 200
    access = Access(load(tmp_path / "node.toml", {}))
    found = [access.token(each) for each in (looking, acting)]
    assert [(each.name, each.role) for each in found if each] == [
        ("looking", "viewer"),
        ("acting", "operator"),
    ]


@pytest.mark.parametrize("name", ["", "Anna", "two words", 'a", role = "operator'])
def test_a_name_that_the_settings_would_refuse_is_refused(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        made(capsys, name, "--role=viewer")

    said = capsys.readouterr()
    assert "a name has up to 32 of a-z" in said.err
    assert said.out == ""


@pytest.mark.parametrize("main", [api.__main__.main, supervisor.main])
def test_no_role_starts_for_other_machines_before_it_is_settled(
    main: object, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "node.toml"
    config.write_text(EVERYWHERE)
    sys.argv = ["role", f"--config={config}"]

    assert callable(main)
    with pytest.raises(SystemExit, match="2"):
        main()

    assert "nothing says who may use the page" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == [config]


def test_check_says_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(check, "_model", lambda _: "ok")
    config = tmp_path / "node.toml"
    said = []
    for text in ("", EVERYWHERE, EVERYWHERE + made(capsys, "a", "--role=viewer")[1]):
        config.write_text(re.sub("{.*},", r"tokens = [\g<0>]", text))
        sys.argv = ["check", f"--config={config}"]
        with pytest.raises(SystemExit) as end:
            check.main()
        (line,) = re.findall("(?m)^access: .*$", capsys.readouterr().out)
        said.append((end.value.code, line))

    assert said[0] == (0, "access: ok, the page is for all at this machine (127.0.0.1)")
    assert said[1][0] == 1
    assert "nothing says who may use the page" in said[1][1]
    assert said[2] == (0, "access: ok, the page is for those whom the settings name")
