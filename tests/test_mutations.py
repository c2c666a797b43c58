"""Harmed instances, through everything that takes instances in.

Whatever is sent ends in an answer or a clear refusal, and in a state; nothing dies of
it. Thousands of them, and every real file, are in chaos/test_mutations.py.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutated import Node, analyzed, mutated_node, originals, table
from tests.mutations import HARMS, Sample, mutations

SEED, COUNT = 20, 44
SMALL = 150_000  # bytes of an original


@pytest.fixture(scope="module")
def harmed() -> list[Sample]:
    return list(mutations(originals(SMALL), SEED, COUNT))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with mutated_node(tmp_path_factory.mktemp("node")) as node:
        yield node


def test_every_harmed_instance_is_refused_or_ends_in_a_state_and_harms_nothing(
    node: Node, harmed: list[Sample]
) -> None:
    answers = list(node.store(harmed))
    rows = node.ends(harmed, answers)

    shown = table("C-STORE", rows)
    outcomes = [what for _, what in rows]
    assert {sample.kind for sample in harmed} == {each.__name__ for each in HARMS}
    assert all(answer.status is not None for answer in answers), shown
    assert "lost" not in outcomes, shown
    assert len({what.split()[0] for what in outcomes}) >= 4, shown
    assert node.surprises() == [], shown
    assert node.replaced() == {}


def test_every_harmed_instance_that_is_uploaded_is_answered_in_words(
    node: Node, harmed: list[Sample]
) -> None:
    rows = list(node.predict(harmed))

    codes = {what.split()[0] for _, what in rows}
    assert codes == {"200", "400", "415"}, table("/predict", rows)
    assert node.surprises() == []
    assert node.replaced() == {}


def test_every_harmed_file_is_analyzed_or_left_out_in_words(
    harmed: list[Sample], node: Node, tmp_path: Path
) -> None:
    rows = analyzed(harmed, node.folder, tmp_path)

    shown = table("analyze", rows)
    states = {what.split()[0] for _, what in rows}
    assert states == {"analyzed", "not", "failed"}, shown
    assert not any("unexpectedly" in what for _, what in rows), shown
    # All that was written has the name of its source, in the folder that was named.
    outside = set(tmp_path.rglob("*")) - set((tmp_path / "out").rglob("*"))
    assert {each.parent for each in outside} <= {tmp_path, tmp_path / "in"}
