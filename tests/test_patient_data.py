"""Whose image it is stands in no log, error, answer or file name of a full run.

The audit file names patients, as PS3.15 A.5.3.7 asks; it is written here, too.

Malformed and non-ASCII identity too, which libraries quote in warnings and exceptions;
and what is broken, so that every path of errors is walked.
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

from tests.mutated import Node, mutated_node, phantoms
from tests.mutations import Draft, Sample, closed, opened
from tests.served import wait_for

# Name, ID, accession number; in each a marker that nothing else says.
MARKERS = ("Quaxolotl", "ZYX987654", "ACC424242")
NAME, ID, ACCESSION = (each.encode() for each in MARKERS)
NOT_ASCII = "Кваксолотль"
MARKER = b"Quaxolotl"
OTHERS = ("/readyz", "/healthz", "/metrics", "/", "/nothing")


def plain(draft: Draft) -> None:
    """As it should be."""


def malformed(draft: Draft) -> None:
    """Each VR holds the name where a date, a number or a UID belongs."""
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


def utf_8_that_is_none(draft: Draft) -> None:
    draft.put("SpecificCharacterSet", b"ISO_IR 192")
    draft.put("PatientName", MARKER + b"\xff\xc3")


def no_study(draft: Draft) -> None:
    draft.put("StudyInstanceUID", b"")


def a_name_for_a_code(draft: Draft) -> None:
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


HARMS: tuple[Callable[[Draft], None], ...] = (
    *(plain, malformed, cyrillic, utf_8_that_is_none, no_study, a_name_for_a_code),
    *(unreadable_sequence, unknown_vr, another_uid, cut),
)


def marked(number: int, harm: Callable[[Draft], None]) -> Sample:
    """One phantom of a marked patient."""
    sample = phantoms()[0]
    draft = opened(sample, random.Random(0))
    uid = f"1.2.826.0.1.5.{number}"
    draft.put("SOPInstanceUID", uid.encode())
    draft.put("PatientName", NAME + b"^Jane")
    draft.put("PatientID", ID)
    draft.put("AccessionNumber", ACCESSION)
    harm(draft)
    return replace(sample, sop_instance_uid=uid, dataset=closed(draft))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with mutated_node(tmp_path_factory.mktemp("node")) as node:
        yield node


def said_over_http(node: Node, samples: list[Sample]) -> str:
    """All that the web side answers, errors and all."""
    ports = json.loads((node.folder / "node" / "run" / "ports.json").read_text())
    with httpx.Client(base_url=f"http://127.0.0.1:{ports['api']}", timeout=60) as api:
        wait_for(lambda: api.get("/readyz").status_code == httpx.codes.OK)
        uploads = [
            api.post("/predict", files={"file": (f"{MARKERS[0]}.dcm", each.part10)})
            for each in samples
        ]
        others = [api.get(path) for path in OTHERS]
    return "".join(each.text + str(each.headers) for each in (*uploads, *others))


def said_by(node: Node, command: str, *arguments: str | Path) -> str:
    """All that a command says."""
    module = f"dicom_node.commands.{command}"
    words = [sys.executable, "-P", "-m", module, f"--config={node.folder}/node.toml"]
    done = subprocess.run([*words, *arguments], capture_output=True, check=False)
    return (done.stdout + done.stderr).decode("utf-8", "backslashreplace")


def test_no_name_id_or_accession_number_gets_out(node: Node, tmp_path: Path) -> None:
    samples = [marked(number, harm) for number, harm in enumerate(HARMS)]
    files = tmp_path / "in"
    files.mkdir()
    for number, sample in enumerate(samples):
        (files / f"{number}.dcm").write_bytes(sample.part10)

    answers = list(node.store(samples))
    outcomes = node.ends(samples, answers)
    said = [
        said_over_http(node, samples),
        said_by(node, "status", "--json"),
        said_by(node, "status"),
        said_by(node, "analyze", files, "--out", tmp_path / "out"),
        *(answer.comment for answer in answers),
        *(str(outcome) for outcome in outcomes),
        node.log,
        "".join(map(str, (node.folder / "node").rglob("*"))),
        "".join(map(str, (tmp_path / "out").rglob("*"))),
    ]

    states = {what.split()[0] for _, what in outcomes}
    assert states >= {"delivered", "not_analyzed", "0xa900", "0xc000"}, outcomes
    assert samples[0].sop_instance_uid in node.log
    # The one file that is to name patients.
    wait_for(lambda: MARKERS[0] in (node.folder / "audit.xml").read_text("utf-8"))
    for text in said:
        for marker in (
            *MARKERS,
            NOT_ASCII,
            NOT_ASCII.encode("iso8859-5").decode("latin-1"),
        ):
            assert marker.lower() not in text.lower()
