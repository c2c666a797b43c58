"""Each command with its arguments: its output and its exit status."""

import argparse
import errno
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom.dsutils import split_dataset

from config.settings import load
from dicom_node import cli
from dicom_node.audit.trail import os_user
from dicom_node.commands import check
from dicom_node.commands.input_files import printable
from dicom_node.decoder import server
from dicom_node.demo.archive import Archive, start_archive
from dicom_node.demo.demo import RIS
from dicom_node.demo.hl7_server import Hl7Server
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.journal.analyses import Conclusion
from dicom_node.journal.journal import Journal
from dicom_node.journal.retention import delete_expired
from dicom_node.outcome import Outcome, Verdict
from dicom_node.queries.history import History
from dicom_node.runtime.fork_server import ForkServer
from dicom_node.storage.database import open_engine, writing
from dicom_node.storage.tables import InstanceState, delivery, paused_destination
from inference.phantom.long_bone import draw_phantom
from models.card import read_card
from tests.support.databases import create_migrated
from tests.support.dicomweb_service import serving_web
from tests.support.examination_rows import examine, summarize
from tests.support.journals import ANSWER, destination

pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("common_decoders"),
]

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = Path(sys.executable).with_name("fracture-node")
CONFIG = """
[receiver]
ae_title = "US"
allowed_callers = ["MODALITY"]
max_study_age_days = 7
[storage]
directory = "node"
min_free_mb = 1
[model]
weights = "{weights}"
[[destinations]]
name = "pacs"
type = "dicom"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {port}
"""

OTHER_TYPES = """
[[destinations]]
name = "sender"
type = "sender"
peers = [
    {{ ae_title = "DX_ROOM_1", host = "127.0.0.1", port = {port} }},
    {{ ae_title = "NOBODY", host = "127.0.0.1", port = {nobody} }},
]
[[destinations]]
name = "web"
type = "stow"
url = "{url}"
"""

REASON = "The disk is full; make room, or lower min_free_mb under [storage] :warning:."

Done = subprocess.CompletedProcess[str]


def fracture_node(folder: Path, *arguments: str | Path) -> Done:
    """Run `fracture-node` in a folder; return its exit status and output."""
    return subprocess.run(
        [PROGRAM, *arguments],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def in_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """A function that runs a command in the test process.

    The function returns what `fracture_node` returns. It is faster, because the test
    process has already imported torch.
    """

    def run(*arguments: str | Path) -> Done:
        started: list[list[str]] = []
        monkeypatch.setattr(os, "execv", lambda _, words: started.append(words))
        monkeypatch.setattr(sys, "argv", ["fracture-node", *map(str, arguments)])
        cli.main()
        ((_, _, _, module, *rest),) = started
        is_package = importlib.util.find_spec(module).submodule_search_locations
        name = f"{module}.__main__" if is_package else module
        monkeypatch.setattr(sys, "argv", [module, *rest])
        umask = os.umask(0o022)
        try:
            with pytest.raises(SystemExit) as end:
                sys.exit(importlib.import_module(name).main())
        finally:
            os.umask(umask)
        output, errors = capsys.readouterr()
        code = end.value.code
        if isinstance(code, str):  # the interpreter prints it and exits with 1
            return Done(arguments, 1, output, errors + code)
        return Done(arguments, int(code or 0), output, errors)

    return run


@pytest.fixture
def command(in_process: Callable[..., Done]) -> Command:
    """A function that runs a command in the test process.

    It returns the exit status and the output, with the error output last.
    """

    def run(*arguments: str | Path) -> tuple[int, str]:
        done = in_process(*arguments)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = start_archive(tmp_path / "archive")
    yield archive
    archive.stop()


@pytest.fixture
def config(tmp_path: Path, archive: Archive) -> Path:
    return configure(tmp_path, archive.port)


def configure(folder: Path, port: int, weights: str = "") -> Path:
    path = folder / "node.toml"
    path.write_text(CONFIG.format(port=port, weights=weights))
    return path


@pytest.fixture
def phantom(tmp_path: Path) -> Path:
    """The file of a phantom with a fracture, with a study date in 2001."""
    dataset = phantom_dataset(draw_phantom(broken=True))
    dataset.StudyDate = "20010203"
    path = tmp_path / "phantom.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


# The program


def test_program_lists_all_commands_if_none_is_given(tmp_path: Path) -> None:
    done = fracture_node(tmp_path)

    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in cli.COMMANDS)
    assert fracture_node(tmp_path, "--help").stdout == done.stdout


def test_unknown_command_is_refused_and_all_commands_are_listed(tmp_path: Path) -> None:
    done = fracture_node(tmp_path, "analyse")

    assert done.returncode == 2
    assert "Unknown command 'analyse'" in done.stderr
    assert all(f"\n  {name} " in done.stderr for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_describes_itself_in_its_help(
    command: Command, name: str
) -> None:
    status, output = command(name, "--help")
    usage, _, rest = output.partition("\n\n")

    assert status == 0
    assert usage.startswith(f"usage: fracture-node {name} ")
    assert len(rest.split("\n\n")[0].split()) >= 5  # a sentence about the command
    assert "None" not in output


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_of_every_command_has_a_help_text(
    command: Command, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsers: list[argparse.ArgumentParser] = []

    def parse_args(self: argparse.ArgumentParser, *_: object) -> NoReturn:
        parsers.append(self)
        sys.exit(0)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    command(name)

    (parser,) = parsers
    assert [each.dest for each in parser._actions if not each.help] == []


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_refuses_unknown_options(command: Command, name: str) -> None:
    status, output = command(name, "--colour")

    assert status == 2
    assert f"usage: fracture-node {name} " in output


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """An invalid settings file, the only file in its folder."""
    config = tmp_path / "node.toml"
    config.write_text("[reciever]\n[api]\nport = 99999\n")
    return config


@pytest.mark.parametrize("name", ["serve", "receiver"])
def test_role_does_not_start_with_invalid_settings_and_explains_them(
    wrong: Path, name: str
) -> None:
    done = fracture_node(wrong.parent, name, "--config=node.toml")

    assert done.returncode == 2
    assert "reciever: no such key; did you mean receiver?" in done.stderr
    assert "api.port: found 99999" in done.stderr
    assert "Traceback" not in done.stderr
    assert [*wrong.parent.iterdir()] == [wrong]


@pytest.mark.parametrize("name", ["serve", "migrate", "check"])
def test_role_without_the_url_of_its_database_leaves_the_files_alone(
    config: Path, name: str
) -> None:
    """The directory is that of a PostgreSQL database, but no `database` is set."""
    folder = load(config, {}).storage.directory
    folder.mkdir(parents=True)
    (folder / "storage.id").write_text("a" * 32)

    done = fracture_node(config.parent, name, f"--config={config}")

    assert done.returncode != 0
    assert f"{folder} belongs to another database" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "node.sqlite").exists()


@pytest.mark.parametrize("name", ["migrate", "echo pacs"])
def test_command_explains_invalid_settings_and_creates_no_files(
    command: Command, wrong: Path, name: str
) -> None:
    status, output = command(*name.split(), "--config", wrong)

    assert status == 2
    assert "reciever: no such key; did you mean receiver?" in output
    assert "api.port: found 99999" in output
    assert "Traceback" not in output
    assert [*wrong.parent.iterdir()] == [wrong]


def test_missing_settings_file_is_an_error(command: Command, tmp_path: Path) -> None:
    status, output = command("status", "--config", tmp_path / "absent.toml")

    assert status == 2
    assert "absent.toml does not exist" in output


# analyze


@pytest.mark.usefixtures("preloaded_model")
def test_analyze_reports_a_result_or_a_reason_for_each_file_of_a_folder(
    in_process: Callable[..., Done],
    tmp_path: Path,
    phantom: Path,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    drawn = draw_phantom(broken=False).pixels
    Image.fromarray((drawn >> 4).astype(np.uint8)).save(tmp_path / "phantom.png")
    (tmp_path / "notes.txt").write_text("A text.")
    (tmp_path / "cut.dcm").write_bytes(phantom.read_bytes()[:100_000])
    names = ("phantom.dcm", "phantom.png", "notes.txt", "cut.dcm")
    folder = tmp_path / "in"
    folder.mkdir()
    for name in names:
        (tmp_path / name).rename(folder / name)

    done = in_process("analyze", folder, "--out=out", f"--config={config}", "--json")

    lines = [json.loads(line) for line in done.stdout.splitlines()]
    by_name = {Path(each["path"]).name: each for each in lines}
    assert done.returncode == 1, done.stderr
    assert sorted(by_name) == sorted(names)
    assert by_name["phantom.dcm"]["answer"] == "Fracture"
    assert by_name["phantom.dcm"]["probability"] > 0.5
    assert by_name["phantom.dcm"]["written"] == [
        "out/phantom.dcm.secondary_capture.dcm",
        "out/phantom.dcm.png",
    ]
    assert by_name["phantom.png"]["answer"] == "No Fracture"
    assert by_name["phantom.png"]["written"] == ["out/phantom.png.png"]
    assert by_name["notes.txt"]["state"] == by_name["cut.dcm"]["state"] == "failed"
    assert by_name["notes.txt"]["reason"]
    assert by_name["cut.dcm"]["reason"]
    assert len(list((tmp_path / "out").iterdir())) == 3
    source = dcmread(folder / "phantom.dcm")
    capture = dcmread(tmp_path / "out" / "phantom.dcm.secondary_capture.dcm")
    with Image.open(tmp_path / "out" / "phantom.dcm.png") as picture:
        assert np.array_equal(np.asarray(picture), capture.pixel_array)
    assert capture.SOPClassUID == SecondaryCaptureImageStorage
    assert capture.StudyInstanceUID == source.StudyInstanceUID


@pytest.mark.usefixtures("preloaded_model")
def test_results_of_files_with_the_same_name_do_not_overwrite_each_other(
    command: Command, tmp_path: Path, phantom: Path, config: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(phantom, other)

    status, output = command(
        *("analyze", phantom, other, "--out", tmp_path / "out", "--config", config)
    )

    assert status == 0
    assert "\n2 analyzed\n" in output
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == [
        "phantom.dcm-2.png",
        "phantom.dcm-2.secondary_capture.dcm",
        "phantom.dcm.png",
        "phantom.dcm.secondary_capture.dcm",
    ]


@pytest.mark.usefixtures("preloaded_model")
def test_a_file_that_is_analyzed_again_gives_the_same_object(
    command: Command, tmp_path: Path, phantom: Path, config: Path
) -> None:
    out = tmp_path / "out"

    status, _ = command("analyze", phantom, phantom, "--out", out, "--config", config)

    first, second = (path.read_bytes() for path in out.glob("*.dcm"))
    assert status == 0
    assert not any(path.stat().st_mode & 0o077 for path in (out, *out.iterdir()))
    assert first == second


def test_empty_folder_is_an_error(
    command: Command, tmp_path: Path, config: Path
) -> None:
    empty, out = tmp_path / "empty", tmp_path / "out"
    empty.mkdir()

    status, output = command("analyze", empty, "--out", out, "--config", config)

    assert status == 1
    assert f"{empty}: failed: There are no files in this folder. Name another" in output


@pytest.mark.parametrize("name", ["analyze", "check"])
def test_missing_weights_are_reported(
    command: Command, tmp_path: Path, phantom: Path, name: str
) -> None:
    config = configure(tmp_path, port=1, weights="absent.pth")
    options = {"analyze": [phantom, "--out", tmp_path], "check": ["--record"]}[name]

    status, output = command(name, *options, "--config", config)

    assert status == 2
    assert re.search(r"absent.(toml does not exist|pth cannot be read)", output)


def test_analyze_says_what_to_do_if_the_decoder_does_not_start(
    command: Command,
    tmp_path: Path,
    config: Path,
    phantom: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def begin_start(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(server, "_common", None)
    monkeypatch.setattr(ForkServer, "begin_start", begin_start)
    out = tmp_path / "out"

    status, output = command("analyze", phantom, "--out", out, "--config", config)

    assert status == 2
    assert "does not start" in output
    assert "ulimit -u" in output
    assert "Traceback" not in output


# check


def test_check_passes_if_the_destination_responds(
    command: Command, config: Path
) -> None:
    status, output = command("check", "--config", config)

    assert status == 0
    assert [line.partition(",")[0] for line in output.splitlines()] == [
        "settings: ok",
        "access: ok",
        "model: ok",
        "decoding: ok",
        "time zone: ok",
        "spool: ok",
        "database: ok",
        "destination pacs: ok",
    ]
    model = output.splitlines()[2]
    shipped = read_card(ROOT / "models" / "fracture_model.toml")
    body_parts = ", ".join(shipped.body_parts)
    assert model.endswith(f"supported values of Body Part Examined: {body_parts}")


@pytest.mark.parametrize(
    ("zone", "found"),
    [
        ("Asia/Riyadh", "ok, Asia/Riyadh, now UTC+03:00;"),
        (":Asia/Riyadh", "ok, Asia/Riyadh, now UTC+03:00;"),
        ("AST-3", "ok, AST-3, now UTC+03:00;"),
        ("", "ok, UTC, now UTC+00:00;"),
        ("Asia/Riad", "this system has no time zone 'Asia/Riad'"),
    ],
)
def test_check_names_the_time_zone_of_results(
    zone: str,
    found: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        passes = check._passes("time zone", check._time_zone)
    finally:
        monkeypatch.undo()
        time.tzset()

    assert capsys.readouterr().out.startswith(f"time zone: {found}")
    assert passes == found.startswith("ok")


def test_check_needs_a_tz_database_of_the_system_except_for_utc(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "TZPATH", ())
    for zone in ("UTC", "Asia/Riyadh"):
        monkeypatch.setenv("TZ", zone)
        check._passes("time zone", check._time_zone)

    of_utc, of_riyadh = capsys.readouterr().out.splitlines()
    assert of_utc.startswith("time zone: ok, UTC, ")
    assert of_riyadh.endswith("install the package tzdata of the operating system")


def test_check_warns_if_an_archive_may_not_report_commitment(
    command: Command, config: Path
) -> None:
    config.write_text(config.read_text() + "commitment = true\n")

    status, output = command("check", "--config", config)

    assert status == 0
    assert "warning: pacs reports storage commitment" in output
    assert "ARCHIVE is not in allowed_callers" in output


def test_check_names_a_destination_that_does_not_respond(
    command: Command, tmp_path: Path, free_port: int
) -> None:
    status, output = command("check", "--config", configure(tmp_path, free_port))

    assert status == 1
    assert "destination pacs: " in output
    assert "destination pacs: ok" not in output
    assert "database: ok" in output


def test_check_and_echo_test_a_web_service_and_each_peer_of_a_sender_destination(
    command: Command, tmp_path: Path, archive: Archive, free_port: int
) -> None:
    config = configure(tmp_path, archive.port)
    with serving_web() as service:
        more = OTHER_TYPES.format(port=archive.port, nobody=free_port, url=service.url)
        config.write_text(config.read_text() + more)

        checked, lines = command("check", "--config", config)
        sender = command("echo", "sender", "--config", config)
        web = command("echo", "web", "--config", config)

    states = dict(line.split(": ", 1) for line in lines.splitlines())
    failure = states["destination sender, NOBODY"]
    assert checked == 1
    assert states["destination pacs"] == "ok, it responds"
    assert states["destination sender, DX_ROOM_1"] == "ok, it responds"
    assert f"NOBODY at 127.0.0.1:{free_port}" in failure
    assert states["destination web"] == "ok, it responds"
    assert sender == (1, f"sender, DX_ROOM_1: alive\nsender, NOBODY: {failure}\n")
    assert web == (0, "web: alive\n")


def test_check_and_echo_connect_to_an_hl7_server(
    command: Command, tmp_path: Path, archive: Archive
) -> None:
    config = configure(tmp_path, archive.port)
    ris = Hl7Server()
    config.write_text(config.read_text() + RIS.format(ris=ris.port))

    passed, lines = command("check", "--config", config)
    alive = command("echo", "ris", "--config", config)
    ris.stop()
    failed, reasons = command("check", "--config", config)

    assert (passed, failed) == (0, 1)
    assert "destination ris: ok, it responds\n" in lines
    assert f"mllp://127.0.0.1:{ris.port} refuses the connection\n" in reasons
    assert alive == (0, "ris: alive\n")
    assert ris.messages == []


@pytest.mark.parametrize("name", ["sender", "web"])
def test_send_refuses_a_destination_that_is_no_fixed_ae(
    command: Command, config: Path, phantom: Path, name: str
) -> None:
    more = OTHER_TYPES.format(port=1, nobody=2, url="https://absent.invalid")
    config.write_text(config.read_text() + more)

    status, output = command("send", phantom, "--to", name, "--config", config)

    assert status == 1
    assert f"{name} has no fixed AE. Name a destination with a fixed AE" in output


def test_check_records_phantom_logits_on_the_card_of_custom_weights(
    command: Command, tmp_path: Path, archive: Archive
) -> None:
    shipped = ROOT / "models" / "fracture_model.pth"
    shutil.copy(shipped, tmp_path / "mine.pth")
    custom_card = tmp_path / "mine.toml"
    card = shipped.with_suffix(".toml").read_text()
    card = re.sub(r"(?m)^version = .*$", 'version = "mine"  # kept', card)
    card = re.sub(r"(?m)^sha256 = .*$", f'sha256 = "{"0" * 64}"', card)
    custom_card.write_text(re.sub(r"whole = \[-?", "whole = [9", card))
    config = configure(tmp_path, archive.port, weights="mine.pth")
    refused, reason = command("check", "--config", config)

    status, _ = command("check", "--record", "--config", config)

    expected = read_card(shipped.with_suffix(".toml"))
    recorded = read_card(custom_card)
    assert (refused, status) == (1, 0)
    assert "model: " in reason
    assert "model: ok" not in reason
    assert recorded.sha256 == expected.sha256
    for which, logits in expected.phantom_logits.items():
        assert recorded.phantom_logits[which] == pytest.approx(logits, rel=0.02)
    assert 'version = "mine"  # kept' in custom_card.read_text()


def test_check_reports_a_card_without_recorded_phantom_logits(
    command: Command, tmp_path: Path, archive: Archive
) -> None:
    shipped = ROOT / "models" / "fracture_model.pth"
    shutil.copy(shipped, tmp_path / "mine.pth")
    card = shipped.with_suffix(".toml").read_text()
    unrecorded = re.sub(r"phantom_logits = .*", "phantom_logits = {}", card)
    (tmp_path / "mine.toml").write_text(unrecorded)
    config = configure(tmp_path, archive.port, weights="mine.pth")

    status, output = command("check", "--config", config)

    assert status == 0
    assert (
        "the card has no phantom results; run `fracture-node check --record`" in output
    )
    assert "the phantom gives" not in output


def test_check_does_not_record_on_the_shipped_card(
    command: Command, config: Path
) -> None:
    status, output = command("check", "--record", "--config", config)

    assert status == 1
    assert "set weights under [model]" in output


# echo and send


@pytest.mark.parametrize("form", ["pacs", "ANY@127.0.0.1:{port}"])
def test_echo_finds_an_archive_by_name_and_by_address(
    command: Command, config: Path, archive: Archive, form: str
) -> None:
    peer = form.format(port=archive.port)

    assert command("echo", peer, "--config", config) == (0, f"{peer}: alive\n")


def test_echo_reports_why_a_peer_does_not_respond(
    command: Command, config: Path, free_port: int
) -> None:
    peer = f"ANY@127.0.0.1:{free_port}"

    status, output = command("echo", peer, "--config", config)

    assert status == 1
    assert output.startswith(f"{peer}: ")
    assert "alive" not in output


def test_echo_refuses_an_unknown_peer_and_lists_the_destinations(
    command: Command, config: Path
) -> None:
    status, output = command("echo", "pax", "--config", config)

    assert status != 0
    assert "'pax' is neither AE@host:port nor a destination (pacs)" in output


def test_send_stores_the_instances_of_a_folder_and_names_other_files(
    tmp_path: Path, phantom: Path, config: Path, archive: Archive
) -> None:
    folder = tmp_path / "in"
    (folder / "deeper").mkdir(parents=True)
    uid = dcmread(phantom).SOPInstanceUID
    phantom.rename(folder / "deeper" / "phantom.dcm")

    whole = fracture_node(
        tmp_path, "send", folder, "--to=pacs", f"--config={config}", "--json"
    )
    (folder / "notes.txt").write_text("A text.")
    part = fracture_node(tmp_path, "send", folder, "--to=pacs", f"--config={config}")

    (line,) = map(json.loads, whole.stdout.splitlines())
    assert (whole.returncode, line["verdict"], line["status"]) == (0, "stored", 0)
    assert {each.sop_instance_uid for each in archive.log} == {uid}
    assert {each.calling_ae_title for each in archive.log} == {"US"}
    assert part.returncode == 1
    assert "phantom.dcm: stored" in part.stdout
    assert "notes.txt: refused" in part.stdout


# Unusable paths and files that are not DICOM

LINK = (
    "There are no files in this folder. Name another one. A link to a folder inside a "
    "folder is not followed: name the folder that it points to."
)
NOT_REGULAR = "This is a device, a pipe or a socket. Name a file or a folder."
EMPTY = "The file is empty. Copy or export it again."
ABSENT = "There is no such file or folder. Check the path."


def unreadable(strerror: str) -> str:
    return (
        f"The path cannot be read: {strerror}. Check the path and that this user may "
        "read it."
    )


@pytest.fixture
def unusable(tmp_path: Path, phantom: Path) -> dict[Path, str]:
    """Paths that can be neither sent nor analyzed, with the message for each."""
    folder = tmp_path / "unusable"
    (folder / "none").mkdir(parents=True)
    (folder / "link").symlink_to("none")
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("absent")
    (folder / "empty.dcm").touch()
    in_folder = {
        "link": LINK,
        "pipe": NOT_REGULAR,
        "loop": unreadable("Too many levels of symbolic links"),
        "dangling": ABSENT,
        "empty.dcm": EMPTY,
    }
    content = phantom.read_bytes()
    dataset = split_dataset(phantom)[1]
    pixels = content.index(b"\xe0\x7f\x10\0OW\0\0")
    again = "Copy or send it again."
    # Preamble and prefix take the first 132 bytes, and (0002,0000) takes 12 bytes. Then
    # tag, VR and length of (0002,0001) take 12 bytes.
    cut = {
        144 + 6: f"The dataset ends early: 6 bytes of 8. {again}",
        dataset: "The file ends early: there is no dataset after the File Meta "
        f"Information. {again}",
        dataset + 5: f"The dataset ends early: 5 bytes of 8. {again}",
        pixels + 10: f"The dataset ends early: 2 bytes of 4. {again}",
        len(content) - 9: f"The dataset ends early: {len(content) - pixels - 21} bytes "
        f"of {len(content) - pixels - 12}. {again}",
    }
    for length, words in cut.items():
        path = folder / f"{length}.dcm"
        path.write_bytes(content[:length])
        in_folder[path.name] = words
    bare = folder / "bare.dcm"  # without preamble and File Meta Information
    bare.write_bytes(content[dataset:-9])
    in_folder[bare.name] = cut[len(content) - 9]
    return {folder / name: words for name, words in in_folder.items()} | {
        tmp_path / "absent.dcm": ABSENT,
        tmp_path / "none": LINK,
        phantom / "within.dcm": unreadable("Not a directory"),
        Path("/dev/null"): NOT_REGULAR,
        tmp_path / ("n" * 300): unreadable("File name too long"),
    }


def not_dicom(tmp_path: Path) -> list[Path]:
    """Create files that are not DICOM; return their paths."""
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "notes.txt").write_text("A text.")
    (folder / "report.pdf").write_bytes(b"%PDF-1.4\n")
    (folder / "zeros").write_bytes(bytes(5000))
    (folder / "short").write_bytes(b"DICM")
    return sorted(folder.iterdir())


def test_send_explains_unusable_paths_and_sends_the_other_files(
    command: Command,
    config: Path,
    phantom: Path,
    archive: Archive,
    unusable: dict[Path, str],
) -> None:
    others = not_dicom(phantom.parent)
    picture = others[0].with_name("picture.png")
    Image.new("L", (8, 8)).save(picture)
    bare = phantom.with_name("bare.dcm")
    bare.write_bytes(phantom.read_bytes()[split_dataset(phantom)[1] :])
    (phantom.parent / "none").mkdir()
    other = (
        "The file is not DICOM: it neither has the prefix DICM nor begins with an "
        "attribute of group 0002 or 0008. Export it as DICOM."
    )
    expected = {**unusable, **dict.fromkeys([*others, picture], other)}
    folders = {phantom.parent / "unusable", picture.parent}
    paths = [path for path in expected if path.parent not in folders]

    status, output = command(
        *("send", *paths, *folders, phantom, bare),
        *("--to", "pacs", "--config", config),
    )

    lines = output.splitlines()
    reasons = dict(line.split(": refused: ") for line in lines if ": refused" in line)
    assert reasons == {str(path): words for path, words in expected.items()}
    assert {f"{phantom}: stored", f"{bare}: stored"} <= {*lines}
    assert "Sending" in output  # the progress bar
    assert status == 1
    assert len(archive.log) == 2
    (empty_folder,) = (path for path, words in unusable.items() if path.name == "none")
    assert command("send", empty_folder, "--to", "pacs", "--config", config)[0] == 1


@pytest.mark.usefixtures("preloaded_model")
def test_analyze_explains_unusable_paths_and_analyzes_the_other_files(
    command: Command, config: Path, phantom: Path, unusable: dict[Path, str]
) -> None:
    others = not_dicom(phantom.parent)
    bare = phantom.with_name("bare.dcm")
    bare.write_bytes(phantom.read_bytes()[split_dataset(phantom)[1] :])
    (phantom.parent / "none").mkdir()
    other = (
        "The file is neither DICOM nor an image in a format that can be read. Name "
        "DICOM, PNG, JPEG, BMP, TIFF or WebP files."
    )
    expected = {**unusable, **dict.fromkeys(others, other)}
    out = phantom.parent / "out"

    status, output = command(
        *("analyze", *expected, phantom, bare), *("--out", out, "--config", config)
    )

    lines = output.splitlines()
    reasons = dict(line.split(": failed: ") for line in lines if ": failed" in line)
    assert reasons == {str(path): words for path, words in expected.items()}
    assert f"{phantom}: Fracture" in output
    assert f"{bare}: Fracture" in output
    assert "Analyzing" in output  # the progress bar
    assert status == 1


def test_analyze_reports_that_it_cannot_create_its_output_folder(
    command: Command, config: Path, phantom: Path
) -> None:
    status, output = command("analyze", phantom, "--out", config, "--config", config)

    assert status == 1
    assert output == (
        f"The folder --out {config} cannot be created: File exists. Name a folder that "
        "this user may write to."
    )


def test_path_that_is_not_valid_text_is_printed_with_a_replacement_character(
    tmp_path: Path,
) -> None:
    assert printable(tmp_path / "m\udcfcller.dcm") == f"{tmp_path}/m\ufffdller.dcm"


# status and retry


@pytest.fixture
def failed(config: Path) -> ReceivedInstance:
    """An instance in the journal with a failed analysis."""
    settings = load(config, {})
    create_migrated(settings.storage)
    engine = open_engine(settings.storage.database_url)
    directory = settings.storage.directory
    journal = Journal(engine, directory, settings.destinations)
    identity = uuid4().hex
    header = InstanceHeader(
        sop_class_uid=DigitalXRayImageStorageForPresentation,
        sop_instance_uid="2.25.7",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    instance = ReceivedInstance(
        id=identity,
        path=directory / "spool" / f"{identity}.dcm",
        header=header,
        content_digest="d",
        size=1000,
        calling_ae_title="MODALITY",
        calling_address="127.0.0.1",
        received_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )
    journal.record(instance)
    journal.analyses.conclude(identity, 1, Conclusion(InstanceState.FAILED, REASON))
    engine.dispose()
    return instance


@pytest.mark.usefixtures("failed")
def test_status_lists_a_failure_as_text_and_json_and_retry_repeats_it(
    command: Command, tmp_path: Path, config: Path
) -> None:
    printed = fracture_node(tmp_path, "status", f"--config={config}")
    status, output = command("status", "--json", "--config", config)
    again = command("retry", "--uid=2.25.7", "--config", config)
    _, after = command("status", "--json", "--config", config)

    state = json.loads(output)
    assert (printed.returncode, status) == (0, 0)
    assert re.search(rf"2\.25\.7 .* {re.escape(REASON)} ", printed.stdout)
    assert state["instances"] == {"failed": 1}
    assert state["listed"][0]["sop_instance_uid"] == "2.25.7"
    assert state["listed"][0]["reason"] == REASON
    assert again == (0, "1 queued again\n")
    assert json.loads(after)["instances"] == {"received": 1}
    _, audited = command("audit", "--json", "--config", config)
    (event,) = map(json.loads, audited.splitlines())
    assert (event["what"], event["who"]) == ("asked for again", os_user())
    assert event["sop_instance_uid"] == "2.25.7"


def test_status_explains_an_outage_of_a_destination_and_retry_repeats_its_delivery(
    command: Command,
    config: Path,
    failed: ReceivedInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load(config, {})
    engine = open_engine(settings.storage.database_url)
    directory = settings.storage.directory
    journal = Journal(engine, directory, [destination("pacs")])
    journal.analyze_again(failed.id)
    journal.analyses.record_result(failed.id, 2, ANSWER)
    journal.deliveries.begin(failed.id, "pacs", 1)
    refuses = Outcome(Verdict.RETRY, None, "X at localhost:104 refuses the connection")
    outcomes = {ANSWER.results[0].sop_instance_uid: refuses}
    journal.delivery_outcomes.record(failed.id, destination("pacs"), 1, outcomes)

    _, before = command("status", "--config", config)
    _, output = command("status", "--json", "--config", config)
    other_destination = command("retry", "--destination=web", "--config", config)
    by_uid = command("retry", "--uid=2.25.7", "--config", config)
    under_way = command("retry", "--destination=pacs", "--config", config)
    # The delivery waits when the command lists it, but not when the command retries it.
    monkeypatch.setattr(History, "waiting_deliveries", lambda _: [(failed.id, "pacs")])
    no_longer_waiting = command("retry", "--destination=pacs", "--config", config)
    engine.dispose()

    assert "To pacs: 1 queued, the oldest requested" in before
    line = rf"pacs has failed for \d s: {refuses.comment}; last attempt \d s ago"
    assert re.search(f"{line}, next in [012] s\n", before)
    state = json.loads(output)
    (outage,) = state["destinations"]["pacs"]["outages"]
    assert outage["reason"] == refuses.comment
    assert state["listed"][0]["reason"] == f"pacs: {refuses.comment}"
    assert other_destination == (1, "0 queued again\n")
    assert by_uid == (0, "1 queued again\n")
    assert under_way == (1, "0 queued again\n")  # no delivery is waiting
    assert no_longer_waiting == (1, "0 queued again\n")


@pytest.mark.parametrize("arguments", [["status"], ["retry", "--all"]])
def test_only_the_user_may_read_files_created_by_status_and_retry(
    command: Command, config: Path, arguments: list[str]
) -> None:
    folder = load(config, {}).storage.directory
    folder.mkdir()

    command(*arguments, "--config", config)

    (made,) = folder.iterdir()
    assert made.stat().st_mode & 0o077 == 0


@pytest.mark.usefixtures("failed")
@pytest.mark.parametrize("uid", ["2.25.8", "", "2.25", "2.25.7 ", "\udcff"])
@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["retry"]])
def test_status_and_retry_explain_an_unknown_instance(
    command: Command,
    config: Path,
    arguments: list[str],
    uid: str,
) -> None:
    message = (
        "The node has not received an instance with the SOP Instance UID "
        f"{uid!r}, or has removed it from the journal. "
        "`fracture-node status --limit 100` lists the last 100 instances."
    )

    assert command(*arguments, f"--uid={uid}", "--config", config) == (1, message)


def test_status_of_an_instance_shows_only_its_own_deliveries(
    command: Command, config: Path, failed: ReceivedInstance
) -> None:
    settings = load(config, {})
    engine = open_engine(settings.storage.database_url)
    journal = Journal(engine, settings.storage.directory, settings.destinations)
    header = replace(failed.header, sop_instance_uid="2.25.9")
    other = replace(failed, id=uuid4().hex, header=header, content_digest="e")
    journal.record(other)
    with writing(engine) as connection:
        for instance, name in ((failed, "pacs"), (other, "archive")):
            row = {"instance_id": instance.id, "destination": name, "state": "queued"}
            row = {**row, "run": 1, "attempts": 0, "asked_at": 1.0, "next_at": 1.0}
            connection.execute(delivery.insert(), row)
            connection.execute(paused_destination.insert(), {"name": name, "at": 1.0})
    engine.dispose()

    status, text = command("status", "--uid=2.25.7", "--config", config)
    _, output = command("status", "--json", "--uid=2.25.7", "--config", config)
    _, everything = command("status", "--config", config)

    state = json.loads(output)
    assert status == 0
    assert state["instances"] == {"failed": 1}
    assert [each["destination"] for each in state["deliveries"]] == ["pacs"]
    assert state["paused"] == ["pacs"]
    assert [each["sop_instance_uid"] for each in state["listed"]] == ["2.25.7"]
    assert "archive" not in text
    assert "archive" in everything


def test_status_and_retry_name_the_summary_of_an_examination(
    command: Command, config: Path, failed: ReceivedInstance
) -> None:
    engine = open_engine(load(config, {}).storage.database_url)
    examination_id = examine(engine, [failed.id])
    summarize(engine, examination_id, "not_analyzed", sop_instance_uid="2.25.10")
    engine.dispose()

    _, text = command("status", "--config", config)
    _, output = command("status", "--json", "--config", config)
    _, named = command("status", "--uid=2.25.10", "--config", config)
    refused = command("retry", "--uid=2.25.10", "--config", config)

    assert "Instances: 1 failed\nExamination summaries: 1 not_analyzed\n" in text
    state = json.loads(output)
    assert (state["instances"], state["summaries"]) == (
        {"failed": 1},
        {"not_analyzed": 1},
    )
    assert [each["sop_instance_uid"] for each in state["listed"]] == ["2.25.7"]
    assert "Instances: 1 not_analyzed\n" in named
    assert "not_analyzed (examination summary)" in named
    assert refused[0] == 1
    assert refused[1].startswith("No analysis or delivery of 2.25.10 failed")


def test_status_lists_failed_and_unfinished_work_before_the_last_images(
    command: Command, config: Path, failed: ReceivedInstance
) -> None:
    settings = load(config, {})
    engine = open_engine(settings.storage.database_url)
    journal = Journal(engine, settings.storage.directory, settings.destinations)
    for number in (8, 9):
        header = replace(failed.header, sop_instance_uid=f"2.25.{number}")
        at = datetime(2026, 1, 2, 3, 4, number, tzinfo=UTC)
        other = replace(failed, id=uuid4().hex, header=header, received_at=at)
        journal.record(replace(other, content_digest=f"{number}"))
    examination_id = examine(engine, [failed.id])
    reason = "No header of an image can be read."
    changes = {"sop_instance_uid": "2.25.10", "received_at": 0.0}
    summarize(engine, examination_id, "failed", reason=reason, **changes)
    engine.dispose()

    _, text = command("status", "--limit=2", "--config", config)
    _, output = command("status", "--limit=1", "--json", "--config", config)

    uids = re.findall(r"2\.25\.\d+", text)
    assert uids == [
        *("2.25.7", "2.25.10"),
        *("2.25.8", "2.25.9"),
        *("2.25.9", "2.25.8"),
    ]
    assert re.search(r"2\.25\.10 .* failed \(examination summary\) .* " + reason, text)
    state = json.loads(output)
    listed = [state[key] for key in ("failed", "unfinished", "listed")]
    assert [[each["sop_instance_uid"] for each in rows] for rows in listed] == [
        *(["2.25.7"], ["2.25.8"], ["2.25.9"])
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["retry", "--all"],
        ["audit"],
        ["echo", "unknown"],
        ["send", "absent.dcm", "--to", "unknown"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_command_without_settings_says_that_it_uses_the_defaults(
    in_process: Callable[..., Done],
    tmp_path: Path,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    line = (
        "Without --config, this command uses the default settings: the storage "
        f"directory is {tmp_path / 'data'}, the destination is pacs. Name the settings "
        "file of your node with --config FILE.\n"
    )

    without = in_process(*arguments)
    with_file = in_process(*arguments, "--config", config)
    monkeypatch.setenv("FRACTURE_NODE__STORAGE__DIRECTORY", str(tmp_path))
    with_variable = in_process(*arguments)

    assert without.stderr.startswith(line)
    assert "Without --config" not in with_file.stderr + with_variable.stderr
    assert "Without --config" not in without.stdout


def test_retry_reports_that_an_instance_has_not_failed(
    command: Command, config: Path, failed: ReceivedInstance
) -> None:
    settings = load(config, {})
    engine = open_engine(settings.storage.database_url)
    journal = Journal(engine, settings.storage.directory, settings.destinations)
    journal.analyze_again(failed.id)
    engine.dispose()

    message = "No analysis or delivery of 2.25.7 failed (received). Nothing is retried."

    assert command("retry", "--uid=2.25.7", "--config", config) == (1, message)


@pytest.mark.usefixtures("failed")
def test_retry_reports_that_the_files_were_removed(
    command: Command, config: Path
) -> None:
    settings = load(config, {})
    engine = open_engine(settings.storage.database_url)
    kept = settings.retention.model_copy(update={"failed_days": 1e-9})
    delete_expired(engine, settings.storage.directory, kept)
    engine.dispose()

    _, everything = command("retry", "--all", "--config", config)
    status, output = command("retry", "--uid=2.25.7", "--config", config)
    _, state = command("status", "--json", "--config", config)

    assert status == 1
    assert output.startswith("0 queued again\n1 not queued: the files were removed")
    assert everything == output
    assert json.loads(state)["listed"][0]["files_removed_at"] > 0


def test_retry_reports_failed_deliveries_with_removed_files(
    command: Command, config: Path, failed: ReceivedInstance
) -> None:
    engine = open_engine(load(config, {}).storage.database_url)
    examination_id = examine(engine, [failed.id])
    changes = {"probability": 0.9, "files_removed_at": 1.0}
    summarize(engine, examination_id, "failed", sop_instance_uid="2.25.10", **changes)
    row = {"instance_id": examination_id, "state": "failed", "run": 1, "attempts": 1}
    row |= {"asked_at": 1.0, "next_at": 1.0, "finished_at": 1.0}
    with writing(engine) as connection:
        connection.execute(delivery.insert(), row | {"destination": "pacs"})
    engine.dispose()

    by_destination = command("retry", "--destination=pacs", "--config", config)
    other = command("retry", "--destination=web", "--config", config)
    by_uid = command("retry", "--uid=2.25.10", "--config", config)
    everything = command("retry", "--all", "--config", config)

    assert by_destination[0] == 1
    assert by_destination[1].startswith("0 queued again\n1 not queued: the files were")
    assert other == (1, "0 queued again\n")
    assert by_uid == by_destination
    assert everything[0] == 0
    assert everything[1].startswith("1 queued again\n1 not queued: the files were")


def test_retry_by_uid_repeats_an_instance_that_was_not_analyzed(
    command: Command, config: Path, failed: ReceivedInstance
) -> None:
    settings = load(config, {})
    engine = open_engine(settings.storage.database_url)
    journal = Journal(engine, settings.storage.directory, settings.destinations)
    journal.analyze_again(failed.id)
    journal.analyses.conclude(
        failed.id, 2, Conclusion(InstanceState.NOT_ANALYZED, "known")
    )
    engine.dispose()

    _, everything = command("retry", "--all", "--config", config)
    _, named = command("retry", "--uid=2.25.7", "--config", config)

    assert everything == "0 queued again\n"
    assert named == "1 queued again\n"


def test_status_without_a_database_names_the_migrate_command(
    command: Command, config: Path
) -> None:
    status, output = command("status", "--config", config)

    assert status == 2
    assert "`fracture-node migrate`" in output


# archive, demo, train


def test_archive_prints_its_address_and_ends_on_sigterm(tmp_path: Path) -> None:
    with subprocess.Popen(
        [PROGRAM, "archive", "--port=0"], cwd=tmp_path, stdout=-1, text=True
    ) as process:
        assert process.stdout is not None
        address, _, rest = process.stdout.readline().partition(" ")
        alive = fracture_node(tmp_path, "echo", address)
        process.terminate()

        assert process.wait(60) == 0
    assert alive.returncode == 0, alive.stdout
    assert rest == f"stores received instances in {tmp_path / 'archive'}\n"


def test_demo_prints_the_results_of_both_phantoms(tmp_path: Path) -> None:
    done = fracture_node(tmp_path, "demo", "--once")

    rows = [
        line for line in done.stdout.splitlines() if " bone " in line and "│" in line
    ]
    broken, whole = rows
    captures = [
        dcmread(path)
        for path in (tmp_path / "data" / "demo" / "archive").glob("*.dcm")
        if path.name in done.stdout
    ]
    assert done.returncode == 0, done.stderr
    assert "\nPID|1||PHANTOM-BROKEN||PHANTOM^BROKEN^^^^^^A||19600101|O\n" in done.stdout
    assert "^Fracture of bone^SCT|1|52101004^Present^SCT|||A|||P|" in done.stdout
    assert "Fracture suspected in 1 of 1 analyzed image (1 definite)" in done.stdout
    assert "definite" in broken
    assert "No Fracture" in whole
    assert {each.SOPClassUID for each in captures} == {SecondaryCaptureImageStorage}
    assert {str(each.PatientName) for each in captures} == {
        "PHANTOM^BROKEN",
        "PHANTOM^WHOLE",
    }
