"""Real files and 3,000 mutations of them, given to C-STORE, /predict and `analyze`.

The variables FRACTURE_NODE_SEED and FRACTURE_NODE_MUTATIONS set another seed and
another number of mutations.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mutation_runs import (
    Node,
    Row,
    analyzed,
    mutated_node,
    originals,
    table,
)
from tests.support.mutations import Sample, mutations

# Warnings come from the sender, which parses the files; the node has its own processes.
pytestmark = [pytest.mark.mutations, pytest.mark.filterwarnings("ignore")]
SEED = int(os.environ.get("FRACTURE_NODE_SEED", "1"))
COUNT = int(os.environ.get("FRACTURE_NODE_MUTATIONS", "3000"))
LARGEST_MUTATED = 200_000  # bytes; larger files take minutes and fail in no other way


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    files = originals(2**30)
    small = [each for each in files if len(each.dataset) <= LARGEST_MUTATED]
    return [*files, *mutations(small, SEED, COUNT)]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with mutated_node(tmp_path_factory.mktemp("node")) as node:
        yield node


def check(node: Node, title: str, rows: list[Row], count: int) -> None:
    shown = table(title, rows)
    print(shown)  # noqa: T201 - the output of this test
    assert len(rows) == count
    assert not any("unexpectedly" in outcome for _, outcome in rows), shown
    assert node.surprises() == []
    assert node.replaced() == {}


def test_receiver_gives_every_instance_a_final_state(
    node: Node, samples: list[Sample]
) -> None:
    responses = list(node.store(samples))
    rows = node.ends(samples, responses)

    assert [a.status for a in responses].count(
        None
    ) == 0  # the receiver responded to each
    assert "lost" not in {outcome for _, outcome in rows}
    check(node, "C-STORE", rows, len(samples))


def test_predict_responds_to_every_file(node: Node, samples: list[Sample]) -> None:
    rows = list(node.predict(samples))

    assert {outcome[:3] for _, outcome in rows} <= {"200", "400", "413", "415"}
    check(node, "/predict", rows, len(samples))


def test_analyze_gives_a_result_or_a_reason_for_every_file(
    node: Node, samples: list[Sample], tmp_path: Path
) -> None:
    check(node, "analyze", analyzed(samples, node.folder, tmp_path), len(samples))
