"""Commands in the documents name the settings of the node."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *(ROOT / "README.md", ROOT / "docs" / "alerts.example.yml"),
    *sorted((ROOT / "docs").glob("*.md")),
]
# Commands that work on the data, or with the destinations, of a node.
COMMANDS = "status|retry|echo|audit|migrate|check|serve|receiver|worker|api"


def calls(text: str) -> Iterator[str]:
    """Yield each call of a command in a text of Markdown or YAML.

    These are the lines of shell blocks, and inline code with further arguments. A block
    that sets a key in the environment is left out.
    """
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    for block in blocks:
        if "FRACTURE_NODE__" not in block:
            yield from re.findall(
                rf"^fracture-node (?:{COMMANDS})\b.*", block, re.MULTILINE
            )
    yield from re.findall(rf"`(fracture-node (?:{COMMANDS}) [^`]+)`", text)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_calls_of_commands_name_the_settings(path: Path) -> None:
    assert [each for each in calls(path.read_text()) if "--config " not in each] == []


def test_alerts_show_calls_of_commands_not_only_their_names() -> None:
    text = (ROOT / "docs" / "alerts.example.yml").read_text()

    assert len(list(calls(text))) == text.count("`fracture-node ") > 4


def test_calls_are_found() -> None:
    block = "```sh\nfracture-node echo pacs   # test\n```\n"

    found = list(calls(f"{block}`fracture-node retry --all` and `fracture-node audit`"))

    assert found == ["fracture-node echo pacs   # test", "fracture-node retry --all"]
