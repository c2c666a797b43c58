"""Every real file as it is, and 3,000 of them harmed, through all that takes them in.

FRACTURE_NODE_SEED and FRACTURE_NODE_MUTATIONS choose others, and how many.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutated import Node, Row, analyzed, mutated_node, originals, table
from tests.mutations import Sample, mutations

# Of what the sender reads to send it; the node is in processes of its own.
pytestmark = [pytest.mark.mutations, pytest.mark.filterwarnings("ignore")]
SEED = int(os.environ.get("FRACTURE_NODE_SEED", "1"))
COUNT = int(os.environ.get("FRACTURE_NODE_MUTATIONS", "3000"))
LARGEST_HARMED = 200_000  # bytes; larger files cost minutes and break no other way


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    every = originals(2**30)
    small = [each for each in every if len(each.dataset) <= LARGEST_HARMED]
    return [*every, *mutations(small, SEED, COUNT)]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with mutated_node(tmp_path_factory.mktemp("node")) as node:
        yield node


def check(node: Node, title: str, rows: list[Row], count: int) -> None:
    shown = table(title, rows)
    print(shown)  # noqa: T201 - what this is run for
    assert len(rows) == count
    assert not any("unexpectedly" in what for _, what in rows), shown
    assert node.surprises() == []
    assert node.replaced() == {}


def test_all_reach_the_receiver_and_end_in_a_state(
    node: Node, samples: list[Sample]
) -> None:
    answers = list(node.store(samples))
    rows = node.ends(samples, answers)

    assert [a.status for a in answers].count(None) == 0  # all reached the receiver
    assert "lost" not in {what for _, what in rows}
    check(node, "C-STORE", rows, len(samples))


def test_all_that_are_uploaded_are_answered(node: Node, samples: list[Sample]) -> None:
    rows = list(node.predict(samples))

    assert {what[:3] for _, what in rows} <= {"200", "400", "413", "415"}
    check(node, "/predict", rows, len(samples))


def test_all_files_are_analyzed_or_left_out(
    node: Node, samples: list[Sample], tmp_path: Path
) -> None:
    check(node, "analyze", analyzed(samples, node.folder, tmp_path), len(samples))
