"""Functions that send damaged instances to all inputs of a node, and report outcomes.

tests/node/test_mutations.py uses this module with a few instances, and
tests/chaos/test_mutations.py with very many.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import torch
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from config.settings import load
from dicom_node.commands import analyze
from dicom_node.demo.archive import start_archive
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.queries.history import History
from dicom_node.storage.database import open_engine
from inference.phantom.long_bone import draw_phantom
from tests.support.mutations import Sample, part10_sample, samples_in
from tests.support.node import Served, counts, serving, wait_for
from tests.support.raw_sender import Answer, raw_sender

SHARED = Path(__file__).resolve().parents[3] / "shared" / "dicom"
KINDS = '["secondary_capture", "presentation_state", "structured_report", "heatmap"]'
CONFIG = """
[receiver]
host = "127.0.0.1"
port = 0
processes = 1
[storage]
directory = "node"
min_free_mb = 1
[model]
device = "cpu"
[worker]
decode_timeout_s = 5
[api]
port = 0
[audit]
file = "audit.xml"
[[destinations]]
name = "archive"
type = "dicom"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {port}
send_negative = false
results = {results}
"""
ROLES = ("dicom_node.receiver", "dicom_node.worker", "api")
ENDS = {"analyzed", "delivered", "not_analyzed", "failed"}
# Must not occur in a log: bugs of the node, and restarted roles.
SURPRISES = re.compile(
    r"Traceback|An error of this program|failed unexpectedly|Cannot store |Error:|"
    r"Cannot store a dataset|Cannot decide|ended with|CRITICAL"
)


Row = tuple[str, str]
"""(mutation, outcome) of an instance. The outcome is a short text."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node that processes damaged instances.

    Attributes:
        served: Its processes.
        folder: The folder of its settings, log and files.
        roles: The initial process ids of its roles.
    """

    served: Served
    folder: Path
    roles: dict[str, list[int]]

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def surprises(self) -> list[str]:
        """Return the lines of the log that report unexpected errors."""
        return [each for each in self.log.splitlines() if SURPRISES.search(each)]

    def replaced(self) -> dict[str, list[int]]:
        """Return the current process ids of each role that was restarted."""
        now = {role: self.served.roles(role) for role in ROLES}
        return {role: pids for role, pids in now.items() if pids != self.roles[role]}

    def store(self, samples: Sequence[Sample]) -> Iterator[Answer]:
        """Send the samples in order by C-STORE, and yield the responses."""
        with raw_sender(self.served.address.port) as sender:
            for each in samples:
                yield sender.send(each)

    def ends(self, samples: Sequence[Sample], answers: Sequence[Answer]) -> list[Row]:
        """Wait until all accepted samples are finished; return a row for each sample.

        Args:
            samples: All samples that `store` sent to this node.
            answers: The responses to the samples, in the same order.
        """
        taken = sum(answer.status == 0 for answer in answers)
        wait_for(lambda: self._ended() >= taken)
        states = {row.sop_instance_uid: row for row in self._rows()}
        return [
            (sample.kind, _outcome(answer, states.get(sample.sop_instance_uid)))
            for sample, answer in zip(samples, answers, strict=True)
        ]

    def predict(self, samples: Sequence[Sample]) -> Iterator[Row]:
        """Upload each sample to /predict, and yield its row."""
        ports = json.loads((self.folder / "node" / "run" / "ports.json").read_text())
        with httpx.Client(
            base_url=f"http://127.0.0.1:{ports['api']}", timeout=120
        ) as client:
            wait_for(lambda: client.get("/readyz").status_code == httpx.codes.OK)
            for each in samples:
                response = client.post("/predict", files={"file": each.part10})
                content = response.json()
                assert {"error", "prediction"} & content.keys()
                yield (
                    each.kind,
                    f"{response.status_code} {_brief(content.get('error', ''))}",
                )

    def _ended(self) -> int:
        return sum(count for state, count in self._counts().items() if state in ENDS)

    def _counts(self) -> dict[str, int]:
        return counts(self.folder / "node.toml")

    def _rows(self) -> list[Any]:
        settings = load(self.folder / "node.toml", {})
        engine = open_engine(settings.storage.database_url)
        try:
            return [*History(engine).recent(10_000)]
        finally:
            engine.dispose()


@contextmanager
def mutated_node(folder: Path) -> Iterator[Node]:
    """Run a node during the block, with an archive that gets KINDS and notices."""
    archive = start_archive(folder / "archive")
    text = CONFIG.format(port=archive.port, results=KINDS)
    (folder / "node.toml").write_text(text)
    with serving(folder / "node.toml") as served:
        wait_for(lambda: "worker-0 INFO Ready" in (folder / "log").read_text())
        wait_for(lambda: all(served.roles(role) for role in ROLES))
        roles = {role: served.roles(role) for role in ROLES}
        yield Node(served, folder, roles)
    archive.stop()


def analyzed(samples: Sequence[Sample], node: Path, folder: Path) -> list[Row]:
    """Return a row with the outcome of `fracture-node analyze` for each sample.

    The command reads the samples from files in `folder`. `node` is the folder with the
    settings.
    """
    inputs = folder / "in"
    inputs.mkdir()
    for number, sample in enumerate(samples):
        (inputs / f"{number:05}").write_bytes(sample.part10)
    settings = load(node / "node.toml", {})
    given = argparse.Namespace(paths=[inputs], out=folder / "out", json=True)
    torch.set_num_threads(1)  # as the command does
    lines = analyze.run(settings, given)
    return [
        (sample.kind, f"{line.state} {_brief(line.reason)}")
        for sample, line in zip(samples, lines, strict=True)
    ]


def table(title: str, rows: Sequence[Row]) -> str:
    """Return a text with the number of samples for each mutation and outcome."""
    lines = [f"{title}: {len(rows)}"]
    for (kind, outcome), count in sorted(Counter(rows).items()):
        lines.append(f"  {kind:22} {count:5} {outcome}")
    return "\n".join(lines)


def _outcome(answer: Answer, row: Any | None) -> str:  # noqa: ANN401 - SQLAlchemy's
    if answer.status is None:
        return "no answer"
    if answer.status:
        return f"{answer.status:#06x} {_brief(answer.comment)}"
    return f"{row.state} {_brief(row.reason)}" if row else "lost"


def _brief(reason: str) -> str:
    """Return the reason in brief, so that equal outcomes are counted together.

    The result is the text before the first period. Each number of three or more digits
    is replaced by "N". Then the text is cut to 60 characters.
    """
    return re.sub(r"\d{3,}", "N", reason.partition(".")[0])[:60]


def originals(largest: int) -> list[Sample]:
    """Return the files of at most `largest` bytes in shared/dicom, and the phantoms.

    If shared/dicom does not exist, only the phantoms are returned.
    """
    found = samples_in(SHARED, largest) if SHARED.exists() else []
    return [*found, *phantoms()]


def phantoms() -> list[Sample]:
    """Return one phantom in three transfer syntaxes."""
    drawn = phantom_dataset(draw_phantom(broken=True, rows=300, columns=240))
    made = []
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless):
        dataset = deepcopy(drawn)
        if syntax.is_compressed:
            dataset.compress(syntax, generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = syntax
        buffer = BytesIO()
        dataset.save_as(
            buffer,
            implicit_vr=syntax.is_implicit_VR,
            little_endian=True,
            enforce_file_format=True,
        )
        made.append(part10_sample(buffer.getvalue(), "as it is"))
    return made
