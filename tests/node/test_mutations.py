"""Mutated instances, given to C-STORE, /predict and `fracture-node analyze`.

For each instance, the node gives a result or an error. No process crashes.
chaos/test_mutations.py sends thousands of mutated instances, and every real file.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mutation_runs import Node, analyzed, mutated_node, originals, table
from tests.support.mutations import HARMS, Sample, mutations

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.usefixtures("common_decoders"),
]

SEED, COUNT = 20, 44
SMALL = 150_000  # bytes of an original


@pytest.fixture(scope="module")
def mutated() -> list[Sample]:
    return list(mutations(originals(SMALL), SEED, COUNT))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with mutated_node(tmp_path_factory.mktemp("node")) as node:
        yield node


def test_every_mutated_instance_is_refused_or_ends_in_a_state(
    node: Node, mutated: list[Sample]
) -> None:
    responses = list(node.store(mutated))
    rows = node.ends(mutated, responses)

    report = table("C-STORE", rows)
    outcomes = [what for _, what in rows]
    assert {sample.kind for sample in mutated} == {each.__name__ for each in HARMS}
    assert all(response.status is not None for response in responses), report
    assert "lost" not in outcomes, report
    assert len({what.split()[0] for what in outcomes}) >= 4, report
    assert node.surprises() == [], report
    assert node.replaced() == {}


def test_every_mutated_instance_gets_a_response_from_predict(
    node: Node, mutated: list[Sample]
) -> None:
    rows = list(node.predict(mutated))

    codes = {what.split()[0] for _, what in rows}
    assert codes == {"200", "400", "415"}, table("/predict", rows)
    assert node.surprises() == []
    assert node.replaced() == {}


def test_every_mutated_file_is_analyzed_or_reported_as_not_analyzed(
    mutated: list[Sample], node: Node, tmp_path: Path
) -> None:
    rows = analyzed(mutated, node.folder, tmp_path)

    report = table("analyze", rows)
    states = {what.split()[0] for _, what in rows}
    assert states == {"analyzed", "not", "failed"}, report
    assert not any("unexpectedly" in what for _, what in rows), report
    # The command writes only to the output folder.
    outside = set(tmp_path.rglob("*")) - set((tmp_path / "out").rglob("*"))
    assert {each.parent for each in outside} <= {tmp_path, tmp_path / "in"}
