"""The worker, an upload, `analyze` and /predict give equal answers for a picture.

Each of them calls `Pipeline.analyze`, with the shipped model and a decoder.
"""

from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from config.settings import load
from dicom_node.analysis.pipeline import Analysis, Pipeline, make_pipeline
from dicom_node.commands import analyze
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.pixels.decode import DecodeOptions, decode
from dicom_node.storage.spool import Spool
from dicom_node.worker.workflows import Work
from inference.classification.classifier import Classifier
from inference.classification.out_of_distribution import OutOfDistributionError
from inference.phantom.long_bone import draw_phantom
from inference.radiograph import Radiograph
from tests.support.hl7_messages import FINDING, received, ris, segments
from tests.support.http_client import LOOKING, bearing
from tests.support.review_site import Review

pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("common_decoders", "preloaded_model"),
]

DATASET = phantom_dataset(draw_phantom(broken=True, rows=300, columns=200))
RADIOGRAPH = decode(DATASET, DecodeOptions(window=1, max_megapixels=1))

Answer = float | str
"""The probability of a fracture with four decimals, or the reason why the image was not
analyzed."""

Caller = Callable[[Review, bytes], Answer]


def by_worker(site: Review, _content: bytes) -> Answer:
    return worked(site, site.receive().id)


def by_upload(site: Review, content: bytes) -> Answer:
    response = site.act("/uploads", files={"file": ("a", content)})
    return worked(site, response.json()["id"])


def worked(site: Review, instance_id: str) -> Answer:
    pipeline = make_pipeline(site.settings)
    work = Work(site.settings, site.journal, Spool(site.settings.storage), pipeline)
    work.analyze(instance_id, 1)
    pipeline.child.close()
    row = site.journal.load(instance_id)
    assert row is not None
    return row.reason if row.probability is None else round(row.probability, 4)


def by_command(site: Review, content: bytes) -> Answer:
    path = site.folder / "file"
    path.write_bytes(content)
    arguments = Namespace(paths=[path], out=site.folder / "out", json=True)
    (line,) = analyze.run(site.settings, arguments)
    return line.reason if line.probability is None else line.probability


def by_predict(site: Review, content: bytes) -> Answer:
    with site.app.state.analyzer as analyzer:
        analyzer._pipeline.result(120)  # the model is loaded
        files = {"file": ("a", content)}
        body = site.ask("POST", "/predict", bearing(LOOKING), files=files).json()
    return body["error"] if "error" in body else round(body["probability"], 4)


def dicom() -> bytes:
    content = BytesIO()
    DATASET.save_as(content, enforce_file_format=True)
    return content.getvalue()


def png() -> bytes:
    content = BytesIO()
    Image.fromarray(RADIOGRAPH.pixels).save(content, "PNG")
    return content.getvalue()


CALLERS = [
    (by_worker, dicom),
    (by_upload, dicom),
    (by_command, png),
    (by_predict, png),
]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Review]:
    site = Review(tmp_path)
    yield site
    site.close()
    site.engine.dispose()


@pytest.fixture(scope="module")
def expected() -> float:
    """The probability that the model gives for RADIOGRAPH without the pipeline."""
    finding = Classifier.load(None, "cpu").classify(RADIOGRAPH)
    return round(finding.probability, 4)


@pytest.mark.parametrize(
    ("caller", "file"), [*CALLERS, (by_command, dicom), (by_predict, dicom)]
)
def test_every_caller_gives_the_answer_of_the_model_by_the_one_pipeline(
    caller: Caller,
    file: Callable[[], bytes],
    expected: float,
    site: Review,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    analyses: list[Analysis[object]] = []
    run = Pipeline.analyze

    def run_and_note(self: Pipeline, *args: object) -> Analysis[object]:
        analyses.append(run(self, *args))  # type: ignore[arg-type]
        return analyses[-1]

    monkeypatch.setattr(Pipeline, "analyze", run_and_note)

    assert caller(site, file()) == expected
    (analysis,) = analyses
    assert np.array_equal(analysis.decoded.radiograph.pixels, RADIOGRAPH.pixels)


@pytest.mark.parametrize(("caller", "file"), CALLERS)
def test_every_caller_says_why_an_unfamiliar_picture_is_not_analyzed(
    caller: Caller,
    file: Callable[[], bytes],
    site: Review,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_self: Classifier, _radiograph: Radiograph) -> None:
        raise OutOfDistributionError("The picture is unlike those of the training.")

    monkeypatch.setattr(Classifier, "classify", refuse)

    assert caller(site, file()) == "The picture is unlike those of the training."


@pytest.mark.parametrize(("is_correction", "status"), [(False, "P"), (True, "C")])
def test_hl7_messages_are_made_with_and_without_a_result(
    is_correction: bool,  # noqa: FBT001 - a parameter
    status: str,
    tmp_path: Path,
) -> None:
    defaults = load(None, {})
    settings = defaults.model_copy(update={"destinations": (ris(),)})
    instance = received(DATASET, tmp_path)
    pipeline = make_pipeline(settings)
    with closing(pipeline.child):
        (result,) = pipeline.encode(
            instance, RADIOGRAPH, FINDING, is_correction=is_correction
        )
        (notice,) = pipeline.notices(
            instance, ("Failed", "Broken."), is_correction=is_correction
        )

    for each, answer_status in ((result, status), (notice, "X")):
        message = each.content.decode()
        answers = [o for o in segments(message, "OBX") if o[3].startswith("125605004")]
        assert segments(message, "OBR")[0][25] == status
        assert [o[11] for o in answers] == [answer_status]
