"""SECURITY.md names a test for each statement, and states the limits of the code."""

import ast
import re
from pathlib import Path

import pytest

from api.http import body, multipart, protocol
from config.settings import load
from dicom_node.audit import folding, trail
from dicom_node.receiver import dimse, listener, server

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "SECURITY.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
HOLDS = TEXT.partition("\n## What holds\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED}))
def test_tests_named_in_security_exist(path: str) -> None:
    functions = {
        each.name
        for each in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(each, ast.FunctionDef)
    }

    assert {name for file, name in NAMED if file == path} <= functions


def test_every_statement_of_security_names_a_test() -> None:
    statements = [line for line in HOLDS.splitlines() if line.startswith("- ")]

    assert len(statements) > 30
    for each in statements:
        assert re.search(r" Tests?: `tests/[\w/]+\.py::test_\w+`", each), each


def test_security_names_every_test_with_its_file() -> None:
    assert TEXT.count("::test_") == len(NAMED)


def test_limits_in_security_equal_those_of_the_code() -> None:
    settings = load(None, {})
    node, worker = settings.receiver, settings.worker
    largest_mb = multipart.LARGEST_FILE // 10**6
    rejections = folding.MOST_OF_A_FLOOD_PER_ADDRESS, folding.MOST_OF_A_FLOOD

    for limit in (
        f"| {listener.MOST_WAITING}, of these {listener.MOST_WAITING_PER_ADDRESS} from",
        f"one address, {listener.DEADLINE_S:g} s each",
        f"an A-ASSOCIATE-RQ | {listener.LONGEST_REQUEST} bytes",
        f"a command set | {dimse.LONGEST_COMMAND} bytes",
        f"`max_associations` {node.max_associations};",
        f"`max_associations_per_caller` {node.max_associations_per_caller}",
        f"without any traffic | {server.IDLE_S:g} s",
        f"`max_instance_mb` {node.max_instance_mb}",
        f"`decode_timeout_s` {worker.decode_timeout_s:g};",
        f"`decode_memory_mb` {worker.decode_memory_mb};",
        f"`max_megapixels` {worker.max_megapixels}",
        f"head of an HTTP request | {protocol.HEAD_S:g} s",
        f"{largest_mb} MB, at {body.SLOWEST // 1000} kB/s or faster",
        f"or faster after {body.GRACE_S:g} s",
        "{} from one address and {} in all".format(*rejections),
        f"{folding.MOST_IN_FULL} in a minute",
        f"an event was repeated in the last {trail.SAME_FOR_S:g} s",
        f"transfers of the last {trail.TRANSFER_S:g} s",
    ):
        assert limit in TEXT
