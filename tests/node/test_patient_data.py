"""No log, error, HTTP response or file name in this test contains patient data.

The audit file names patients, as PS3.15 A.5.3.7 requires. Some of the instances have
malformed or non-ASCII identities, which libraries quote in warnings and exceptions.
Others are broken, so that the code paths of errors run, too.
"""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.support.mutation_runs import Node, mutated_node, phantoms
from tests.support.mutations import Draft, Sample, closed, opened
from tests.support.node import wait_for

pytestmark = pytest.mark.acceptance

# Name, ID, accession number; each contains text that appears nowhere else.
MARKERS = ("Quaxolotl", "ZYX987654", "ACC424242")
NAME, ID, ACCESSION = (each.encode() for each in MARKERS)
NOT_ASCII = "Кваксолотль"
MARKER = b"Quaxolotl"
OTHERS = ("/readyz", "/healthz", "/metrics", "/", "/nothing")


def plain(draft: Draft) -> None:
    """Change nothing: the instance is valid."""


def malformed(draft: Draft) -> None:
    """Write MARKER to elements for dates, numbers, codes and UIDs, and to the name."""
    for keyword in ("PatientBirthDate", "StudyDate", "StudyTime", "PatientAge"):
        draft.put(keyword, MARKER)
    for keyword in ("InstanceNumber", "PatientWeight", "WindowCenter", "PixelSpacing"):
        draft.put(keyword, MARKER)
    for keyword in ("SeriesInstanceUID", "PatientSex", "LossyImageCompression"):
        draft.put(keyword, MARKER)
    draft.put("PatientName", b"=".join([MARKER] * 5))
    draft.put("SpecificCharacterSet", MARKER)


def cyrillic(draft: Draft) -> None:
    draft.put("SpecificCharacterSet", b"ISO_IR 144")
    draft.put("PatientName", NOT_ASCII.encode("iso8859-5"))


def invalid_utf_8(draft: Draft) -> None:
    draft.put("SpecificCharacterSet", b"ISO_IR 192")
    draft.put("PatientName", MARKER + b"\xff\xc3")


def no_study(draft: Draft) -> None:
    draft.put("StudyInstanceUID", b"")


def name_as_code(draft: Draft) -> None:
    draft.put("Modality", MARKER)
    draft.put("BodyPartExamined", MARKER)
    draft.put("PhotometricInterpretation", MARKER)


def unreadable_sequence(draft: Draft) -> None:
    draft.put("RequestAttributesSequence", MARKER)
    draft.put("ModalityLUTSequence", MARKER)


def unknown_vr(draft: Draft) -> None:
    draft.put("PatientComments", MARKER, b"ZZ")
    draft.put("RescaleSlope", MARKER, b"ZZ")


def another_uid(draft: Draft) -> None:
    draft.put("SOPInstanceUID", MARKER)


def cut(draft: Draft) -> None:
    draft.data = draft.data[:-1000]


CHANGES: tuple[Callable[[Draft], None], ...] = (
    *(plain, malformed, cyrillic, invalid_utf_8, no_study, name_as_code),
    *(unreadable_sequence, unknown_vr, another_uid, cut),
)


def marked(number: int, change: Callable[[Draft], None]) -> Sample:
    """Return a phantom with MARKERS as name, ID and accession number.

    `number` is the last component of the SOP Instance UID. `change` is applied last.
    """
    sample = phantoms()[0]
    draft = opened(sample, random.Random(0))
    uid = f"1.2.826.0.1.5.{number}"
    draft.put("SOPInstanceUID", uid.encode())
    draft.put("PatientName", NAME + b"^Jane")
    draft.put("PatientID", ID)
    draft.put("AccessionNumber", ACCESSION)
    change(draft)
    return replace(sample, sop_instance_uid=uid, dataset=closed(draft))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with mutated_node(tmp_path_factory.mktemp("node")) as node:
        yield node


def http_output(node: Node, samples: list[Sample]) -> str:
    """Upload samples to /predict, request OTHERS, and return all responses as text."""
    ports = json.loads((node.folder / "node" / "run" / "ports.json").read_text())
    with httpx.Client(base_url=f"http://127.0.0.1:{ports['api']}", timeout=60) as api:
        wait_for(lambda: api.get("/readyz").status_code == httpx.codes.OK)
        uploads = [
            api.post("/predict", files={"file": (f"{MARKERS[0]}.dcm", each.part10)})
            for each in samples
        ]
        others = [api.get(path) for path in OTHERS]
    return "".join(each.text + str(each.headers) for each in (*uploads, *others))


def command_output(node: Node, command: str, *arguments: str | Path) -> str:
    """Return what a command of the node writes to stdout and stderr."""
    module = f"dicom_node.commands.{command}"
    words = [sys.executable, "-P", "-m", module, f"--config={node.folder}/node.toml"]
    done = subprocess.run([*words, *arguments], capture_output=True, check=False)
    return (done.stdout + done.stderr).decode("utf-8", "backslashreplace")


def test_output_contains_no_patient_name_id_or_accession_number(
    node: Node, tmp_path: Path
) -> None:
    samples = [marked(number, change) for number, change in enumerate(CHANGES)]
    files = tmp_path / "in"
    files.mkdir()
    for number, sample in enumerate(samples):
        (files / f"{number}.dcm").write_bytes(sample.part10)

    responses = list(node.store(samples))
    outcomes = node.ends(samples, responses)
    outputs = [
        http_output(node, samples),
        command_output(node, "status", "--json"),
        command_output(node, "status"),
        command_output(node, "analyze", files, "--out", tmp_path / "out"),
        *(response.comment for response in responses),
        *(str(outcome) for outcome in outcomes),
        node.log,
        "".join(map(str, (node.folder / "node").rglob("*"))),
        "".join(map(str, (tmp_path / "out").rglob("*"))),
    ]

    states = {outcome.split()[0] for _, outcome in outcomes}
    assert states >= {"delivered", "not_analyzed", "0xa900", "0xc000"}, outcomes
    assert samples[0].sop_instance_uid in node.log
    # The audit file is the only one that names patients.
    wait_for(lambda: MARKERS[0] in (node.folder / "audit.xml").read_text("utf-8"))
    for text in outputs:
        for marker in (
            *MARKERS,
            NOT_ASCII,
            NOT_ASCII.encode("iso8859-5").decode("latin-1"),
        ):
            assert marker.lower() not in text.lower()
