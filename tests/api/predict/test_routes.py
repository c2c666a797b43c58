"""/predict over HTTP: accepted files, responses, refusals and limits.

The original application is an earlier web application. The node can use its weights:
see models/README.md.
"""

import asyncio
import base64
import io
import logging
import socket
import statistics
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base
from starlette.datastructures import Headers
from starlette.types import Message
from torchvision import transforms
from torchvision.models import resnet18

from api.app import create_app
from api.auth.audit import AccessEvent, User
from api.http.body import LimitedBody
from api.http.concurrency_limit import UploadLimit
from api.http.multipart import LARGEST_FILE, UPLOAD, received
from api.predict.analyzer import Analyzer
from api.predict.response import prediction_response
from api.predict.schemas import ArrowResponse
from config.settings import load
from dicom_node.analysis.pipeline import Analysis, Pipeline, Source
from dicom_node.audit.event import AuditEventType
from dicom_node.decoder.client import ChildTimeoutError
from dicom_node.decoder.quick_client import QuickDecoder
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.pixels.decode import DecodedInstance
from inference.classification.classifier import Classifier
from inference.drawing.result_image import Annotated, render
from inference.finding import (
    Arrow,
    Finding,
    Location,
    ModelIdentity,
    OperatingPoint,
    Thresholds,
)
from inference.phantom.long_bone import draw_phantom
from inference.radiograph import Radiograph
from tests.support.http_client import LOOKING, TOKENS, Site, bearing
from tests.support.locations import locations

SEEDS = range(6)
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'

pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("common_decoders"),
]

CARD = """
name = "original"
version = "1"
architecture = "resnet18"
classes = ["Fracture", "No Fracture"]
input_size = 224
resize = "stretch"
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
temperature = 1.0
doubtful = 0.5
definite = 0.5
body_parts = []
sha256 = ""
phantom_logits = {}
"""


@pytest.fixture(scope="module")
def original() -> torch.nn.Module:
    """The network of the original application, with random but always equal weights."""
    torch.manual_seed(7)
    network = resnet18(weights=None)
    network.fc = torch.nn.Linear(512, 2)
    torch.nn.init.normal_(network.fc.weight, std=2)  # probabilities far from 0.5
    network.eval()
    images = torch.cat([prepared(encoded(random_image(seed))) for seed in SEEDS])
    with torch.no_grad():  # probabilities on both sides of 0.5
        network.fc.bias -= network(images).mean(dim=0)
    return network


def prepared(content: bytes) -> torch.Tensor:
    """Return the network input that the original application makes of an image file."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    steps = [transforms.Resize((224, 224)), transforms.ToTensor()]
    tensor: torch.Tensor = transforms.Compose(steps)(image)[None]
    return tensor


@pytest.fixture(scope="module")
def client(
    original: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of the node, which runs with the network `original`."""
    torch.set_num_threads(1)  # as api/__main__.py does
    folder = tmp_path_factory.mktemp("original")
    torch.save(original.state_dict(), folder / "weights.pth")
    (folder / "weights.toml").write_text(CARD)
    environment = {
        "FRACTURE_NODE__STORAGE__DIRECTORY": str(folder / "data"),
        "FRACTURE_NODE__MODEL__WEIGHTS": str(folder / "weights.pth"),
        "FRACTURE_NODE__MODEL__DEVICE": "cpu",
        "FRACTURE_NODE__WORKER__DECODE_MEMORY_MB": "1024",
    }
    with served(create_app(load(None, environment))) as client:
        while client.get("/readyz").json()["model"] == "the model is being loaded":
            Event().wait(0.05)
        yield client


@contextmanager
def served(app: FastAPI) -> Iterator[httpx.Client]:
    """Serve an application on a free port; yield a client."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    # asyncio turns Nagle's delay off only for sockets with the protocol TCP.
    tcp = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    with socket.socket(*tcp) as listening, ThreadPoolExecutor(1) as thread:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        running = thread.submit(server.run, [listening])
        try:
            with httpx.Client(base_url=address, timeout=60) as client:
                yield client
        finally:
            server.should_exit = True
            running.result()


def phantom(*, broken: bool = True, rows: int = 300) -> NDArray[np.uint8]:
    drawn = draw_phantom(broken=broken, rows=rows, columns=240)
    return drawn.radiograph().pixels


def encoded(pixels: NDArray[Any], kind: str = "PNG", **options: object) -> bytes:
    """Return pixels as an image file of the format `kind`."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


def dicom(**options: Any) -> bytes:  # noqa: ANN401 - those of phantom_dataset
    drawn = draw_phantom(broken=True, rows=300, columns=240)
    content = io.BytesIO()
    phantom_dataset(drawn, **options).save_as(content, enforce_file_format=True)
    return content.getvalue()


def predict(client: httpx.Client, content: bytes, query: str = "") -> httpx.Response:
    return client.post(f"/predict{query}", files={"file": ("JANE DOE.png", content)})


def picture(text: str) -> NDArray[np.uint8]:
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))))


def random_image(seed: int) -> NDArray[np.uint8]:
    """Return smooth random gray levels: 300 rows, 240 columns."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (7, 5), np.uint8)
    return cv2.resize(coarse, (240, 300), interpolation=cv2.INTER_CUBIC)


class TestPrediction:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_prediction_equals_that_of_the_original_application(
        self, client: httpx.Client, original: torch.nn.Module, seed: int
    ) -> None:
        content = encoded(random_image(seed))
        with torch.no_grad():
            probabilities = original(prepared(content)).softmax(dim=1)[0]
        best = int(probabilities.argmax())

        body = predict(client, content).json()

        assert body["prediction"] == ("Fracture", "No Fracture")[best]
        # The confidence is limited to 99.9 %.
        assert body["confidence"] == f"{min(float(probabilities[best]), 0.999):.1%}"

    @pytest.mark.parametrize("seed", SEEDS)
    def test_fields_of_a_prediction_are_consistent(
        self, client: httpx.Client, seed: int
    ) -> None:
        body = predict(client, encoded(random_image(seed))).json()

        found = body["prediction"] == "Fracture"
        of_class = body["probability"] if found else 1 - body["probability"]
        assert body["confidence"] == f"{min(of_class, 0.999):.1%}"
        assert body["operating_point"] == ("definite" if found else "none")
        assert body["model"] == {"name": "original", "version": "1"}
        assert "original" not in body

    def test_prediction_has_an_arrow_only_with_a_finding(
        self, client: httpx.Client
    ) -> None:
        bodies = [predict(client, encoded(random_image(seed))).json() for seed in SEEDS]

        found = [body["prediction"] == "Fracture" for body in bodies]
        assert set(found) == {True, False}
        assert [body["arrow"] is not None for body in bodies] == found

    def test_original_is_aligned_with_the_annotated_picture(
        self, client: httpx.Client
    ) -> None:
        pixels = phantom()

        body = predict(client, encoded(pixels), "?original=true").json()

        shown = picture(body["original"]["image_base64"])
        columns, rows = body["original"]["area"]
        assert shown.shape == (rows, columns)
        annotated = picture(body["image_base64"])
        assert annotated.shape[0] > rows  # the caption is below
        # The corner is far from heatmap and arrow, so both pictures show the same.
        corner = annotated[:20, :20].astype(int).mean(axis=2)
        assert np.abs(corner - shown[:20, :20]).max() <= 4


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda: encoded(phantom(), "JPEG"), id="jpeg"),
        pytest.param(lambda: encoded(phantom(), "BMP"), id="bmp"),
        pytest.param(lambda: encoded(phantom(), "TIFF"), id="tiff"),
        pytest.param(lambda: encoded(phantom(), "WEBP", lossless=True), id="webp"),
        pytest.param(
            lambda: encoded(np.dstack([phantom()] * 3), "PNG"), id="png-color"
        ),
        pytest.param(dicom, id="dicom"),
        pytest.param(
            lambda: dicom(photometric_interpretation="MONOCHROME1"), id="monochrome1"
        ),
    ],
)
def test_every_file_format_gets_the_same_prediction_as_png(
    client: httpx.Client, content: Callable[[], bytes]
) -> None:
    expected = predict(client, encoded(phantom())).json()

    response = predict(client, content())

    assert response.status_code == 200, response.json()
    body = response.json()
    assert body["prediction"] == expected["prediction"]
    # A tolerance for lossy JPEG and for the rounding of 12 bits to 8.
    assert body["probability"] == pytest.approx(expected["probability"], abs=0.02)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_files_are_read(client: httpx.Client, kind: str) -> None:
    pixels = draw_phantom(broken=True, rows=300, columns=240).pixels

    assert predict(client, encoded(pixels, kind)).status_code == 200


def refusal(response: httpx.Response) -> tuple[int, str]:
    """Return the status and the error text; assert that the body has no other field."""
    body = response.json()
    assert list(body) == ["error"]
    assert "Traceback" not in body["error"]
    return response.status_code, body["error"]


class TestRefusal:
    @pytest.mark.parametrize(
        ("content", "status", "words"),
        [
            (b"", 400, "empty"),
            (b"hello", 415, "neither an image nor DICOM"),
            (b"%PDF-1.7 a report", 415, "neither an image nor DICOM"),
            (b"\x89PNG\r\n\x1a\n", 415, "neither an image nor DICOM"),
            (encoded(phantom())[:2000], 400, "ends early"),
            (encoded(phantom(), "JPEG")[:3000], 400, "ends early"),
            (dicom()[:5000], 400, "(7FE0,0010)"),
            (b"\0" * 128 + b"DICM" + b"\xff" * 500, 415, "no image"),
        ],
        ids=[
            "empty",
            "text",
            "pdf",
            "png-signature-alone",
            "png-cut-off",
            "jpeg-cut-off",
            "dicom-cut-off",
            "dicom-garbage",
        ],
    )
    def test_invalid_image_is_refused(
        self, client: httpx.Client, content: bytes, status: int, words: str
    ) -> None:
        found, error = refusal(predict(client, content))

        assert found == status
        assert words in error
        assert error.endswith(".")

    def test_form_without_the_file_field_is_refused(self, client: httpx.Client) -> None:
        response = client.post("/predict", files={"image": ("a.png", b"x")})

        assert refusal(response)[0] == 400

    @pytest.mark.parametrize(
        ("body", "content_type"),
        [
            (b"", "multipart/form-data; boundary=b"),
            (b"no boundary at all", "multipart/form-data; boundary=b"),
            (b"file=a", "application/x-www-form-urlencoded"),
            (b"{}", "application/json"),
            (b"x", "multipart/form-data"),
        ],
    )
    def test_body_that_is_no_form_is_refused(
        self, client: httpx.Client, body: bytes, content_type: str
    ) -> None:
        response = client.post(
            "/predict", content=body, headers={"Content-Type": content_type}
        )

        assert refusal(response)[0] == 400

    # Starlette leaves the file of the part to the garbage collector.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_truncated_form_is_refused(self, client: httpx.Client) -> None:
        response = client.post(
            "/predict",
            content=PART + b"no closing boundary",
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        )

        assert refusal(response)[0] == 400

    def test_invalid_parameter_is_refused(self, client: httpx.Client) -> None:
        response = predict(client, encoded(phantom()), "?original=perhaps")

        assert refusal(response) == (
            400,
            "Invalid or missing value: original. See /docs.",
        )

    def test_file_over_the_limit_is_refused(self, client: httpx.Client) -> None:
        response = predict(client, b"\0" * (LARGEST_FILE + 1))

        assert refusal(response) == (
            413,
            "The file is larger than 50 MB, the maximum.",
        )

    def test_chunked_upload_over_the_limit_is_refused(
        self, client: httpx.Client
    ) -> None:
        response = client.post(
            "/predict",
            content=(chunk for chunk in [PART, *[b"\0" * 2**20] * 48]),
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        )

        assert refusal(response)[0] == 413

    def test_decompression_bomb_is_refused(self, client: httpx.Client) -> None:
        assert refusal(predict(client, png_of(11_000, 11_000)))[0] == 413

    def test_image_that_exceeds_the_decoder_memory_is_refused_and_the_next_is_read(
        self, client: httpx.Client
    ) -> None:
        status, error = refusal(predict(client, png_of(9_000, 9_000, channels=4)))

        assert status == 400
        assert "needed more than 1024 MB" in error
        assert predict(client, encoded(phantom())).status_code == 200

    def test_dicom_that_is_no_radiograph_is_refused(self, client: httpx.Client) -> None:
        computed_tomography = "1.2.840.10008.5.1.4.1.1.2"

        status, error = refusal(
            predict(client, dicom(sop_class_uid=computed_tomography))
        )

        assert status == 415
        assert error

    def test_responses_and_log_name_neither_patient_nor_file(
        self, client: httpx.Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        contents = [dicom(), dicom()[:5000], dicom()[:400], b"hello"]

        bodies = [predict(client, content).json() for content in contents]

        bodies[0].pop("image_base64")  # it may contain any letters
        text = f"{caplog.text} {bodies}".upper()
        assert [name for name in ("PHANTOM", "JANE", "DOE") if name in text] == []


@pytest.mark.parametrize(
    ("length", "read"),
    [
        # One MiB per message: the 48th exceeds 50 MB plus the 64 KiB for the form.
        pytest.param(None, 48, id="chunked"),
        pytest.param(b"1000", 48, id="declared-less"),
        pytest.param(b"99000000", 0, id="declared"),
    ],
)
def test_upload_is_read_only_up_to_its_limit(length: bytes | None, read: int) -> None:
    size = (b"content-length", length) if length else (b"transfer-encoding", b"chunked")
    headers = [(b"content-type", b"multipart/form-data; boundary=b"), size]
    messages = 0

    async def receive() -> Message:
        nonlocal messages
        messages += 1
        assert messages <= read
        body = (PART + bytes(2**20))[: 2**20] if messages == 1 else bytes(2**20)
        return {"type": "http.request", "body": body, "more_body": True}

    async def upload() -> None:
        body = LimitedBody(Headers(raw=headers), receive, UPLOAD)
        body.check_declared_size()
        request = Request({"type": "http", "headers": headers}, body.receive)
        async with received(request):
            pass

    with pytest.raises(HTTPException, match="larger than 50 MB"):
        asyncio.run(upload())

    assert messages == read


def test_interrupted_upload_is_not_logged_as_an_error(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    address = client.base_url.host, client.base_url.port
    head = (
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )

    with socket.create_connection(address) as sender:
        sender.sendall(head + PART)
    records = caplog.records
    deadline = time.monotonic() + 30
    while not any(
        record.name in {"api.http.problems", "uvicorn.error"} for record in records
    ):
        assert time.monotonic() < deadline, "the server has not noticed"
        Event().wait(0.02)

    assert "Responded with 400: The client disconnected" in caplog.text
    assert [record.name for record in records if record.levelno >= logging.ERROR] == []


ORIGINAL = Thresholds(0.5, 0.5)


def analysis(
    probability: float,
    arrow: Arrow | None = None,
    source_shape: tuple[int, int] = (200, 150),
    thresholds: Thresholds = ORIGINAL,
) -> Analysis[Annotated]:
    """Return an analysis of a black image of 200 rows and 150 columns."""
    radiograph = Radiograph(np.zeros((200, 150), np.uint8), None, source_shape)
    model = ModelIdentity("m", "1", "0" * 64)
    saliency = np.zeros((7, 7), np.float32)
    finding = Finding(probability, thresholds, saliency, locations(arrow), model)
    annotated = render(radiograph, finding, long_side=512)
    return Analysis(DecodedInstance(radiograph, "", ""), finding, annotated)


def test_arrow_has_coordinates_of_the_stored_pixels() -> None:
    arrow = Arrow(tip=(30.0, 80.0), tail=(50.0, 120.0))
    # Pixels twice as high as wide: 100 rows were stored, 200 are shown.
    shown = analysis(0.9, arrow, source_shape=(100, 150))

    written = prediction_response(shown, original=False)

    assert written.arrow == ArrowResponse(tip=(30.0, 40.0), tail=(50.0, 60.0))


def test_findings_are_the_locations_in_stored_pixels() -> None:
    arrows = Arrow((30.0, 80.0), (50.0, 120.0)), Arrow((90.0, 10.0), (70.0, 40.0))
    found = (
        Location(arrows[0], 0.81, OperatingPoint.DEFINITE),
        Location(arrows[1], 0.31, OperatingPoint.DOUBTFUL),
    )
    # Pixels twice as high as wide: 100 rows were stored, 200 are shown.
    shown = analysis(0.9, source_shape=(100, 150))
    shown = replace(shown, finding=replace(shown.finding, locations=found))

    written = prediction_response(shown, original=False)

    assert [each.model_dump() for each in written.findings] == [
        {
            "arrow": {"tip": (30, 40), "tail": (50, 60)},
            "score": 0.81,
            "operating_point": "definite",
        },
        {
            "arrow": {"tip": (90, 5), "tail": (70, 20)},
            "score": 0.31,
            "operating_point": "doubtful",
        },
    ]
    assert written.arrow == written.findings[0].arrow


def test_arrow_of_a_rotated_image_is_that_of_the_upright_image(
    client: httpx.Client,
) -> None:
    def arrow(content: bytes) -> object:
        return predict(client, content).json()["arrow"]

    images = (random_image(seed) for seed in SEEDS)
    upright = next(image for image in images if arrow(encoded(image)))
    exif = Image.Exif()
    exif[Base.Orientation] = 6  # rotate by 90 degrees clockwise

    rotated = encoded(np.rot90(upright), exif=exif)

    assert arrow(rotated) == arrow(encoded(upright))


@pytest.mark.parametrize(
    ("probability", "written"),
    [
        pytest.param(0.0003, "99.9%", id="no-fracture"),
        pytest.param(0.9431, "94.3%", id="a-fracture"),
        pytest.param(0.9989, "99.9%", id="rounded"),
        pytest.param(0.9997, "99.9%", id="capped"),
        pytest.param(1.0, "99.9%", id="rounded-to-one-by-float32"),
    ],
)
def test_confidence_is_limited_to_99_9_percent(
    probability: float, written: str
) -> None:
    found = prediction_response(analysis(probability), original=False)

    assert found.confidence == written
    assert found.probability == probability


@pytest.mark.parametrize(
    ("probability", "prediction", "written"),
    [
        # 50 + 50 (0.12 - 0.06) / 0.94 = 53.19; 50 + 50 (0.06 - 0.036) / 0.06 = 70
        pytest.param(0.12, "Fracture", "53.2%", id="a-doubtful-fracture"),
        pytest.param(0.036, "No Fracture", "70.0%", id="none"),
    ],
)
def test_confidence_is_relative_to_the_threshold_of_the_card(
    probability: float, prediction: str, written: str
) -> None:
    shown = analysis(probability, thresholds=Thresholds(0.06, 0.37))

    found = prediction_response(shown, original=False)

    assert (found.prediction, found.confidence) == (prediction, written)
    assert found.probability == probability


def png_of(rows: int, columns: int, channels: int = 1) -> bytes:
    """Return a PNG file of zeros. When decoded, it is more than 200 times larger."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return len(data).to_bytes(4) + kind + data + checksum.to_bytes(4)

    header = (
        columns.to_bytes(4)
        + rows.to_bytes(4)
        + bytes([8, 6 if channels == 4 else 0, 0, 0, 0])
    )
    compressor = zlib.compressobj(1)
    data = b"".join(
        compressor.compress(bytes(channels * columns + 1)) for _ in range(rows)
    )
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", data + compressor.flush())
        + chunk(b"IEND", b"")
    )


def test_prediction_is_recorded_in_the_audit_trail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def analyze(
        _self: Analyzer, _file: Path, _slot: object
    ) -> Analysis[Annotated]:
        return analysis(0.9)

    monkeypatch.setattr(Analyzer, "require_ready", lambda _: None)
    monkeypatch.setattr(Analyzer, "analyze", analyze)
    site = Site(tmp_path, TOKENS)

    response = site.ask(
        "POST", "/predict", bearing(LOOKING), files={"file": ("a", b"x")}
    )

    assert response.status_code == 200
    user = User("looking", "viewer")
    assert site.events == [
        AccessEvent(AuditEventType.VIEWED, user, "192.0.2.7", "/predict")
    ]


def test_tenth_concurrent_request_is_refused_with_retry_after(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = Event()
    original_analyze = Analyzer._analyze

    def wait_and_analyze(self: Analyzer, source: Source) -> Analysis[Annotated]:
        go_on.wait(30)
        return original_analyze(self, source)

    monkeypatch.setattr(Analyzer, "_analyze", wait_and_analyze)
    content = encoded(phantom())
    with ThreadPoolExecutor(10) as pool:
        requests = [pool.submit(predict, client, content) for _ in range(10)]
        # All analyses wait, so only a refusal can be completed.
        refused, _ = wait(requests, timeout=30, return_when=FIRST_COMPLETED)
        go_on.set()

    (response,) = (future.result() for future in refused)
    assert refusal(response)[0] == 503
    assert response.headers["Retry-After"] == "5"
    succeeded = [future.result() for future in requests if future not in refused]
    assert [response.status_code for response in succeeded] == [200] * 9


def test_slow_image_is_decoded_in_parallel_to_others(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, short = encoded(phantom()), encoded(phantom(rows=200))
    began, go_on = Event(), Event()
    read = Pipeline.read

    def wait_and_read(self: Pipeline, source: Source) -> DecodedInstance:
        if isinstance(source, Path) and source.read_bytes().endswith(long):
            if isinstance(self.child, QuickDecoder):
                raise ChildTimeoutError("Decoding took longer than 2 s.")
            began.set()
            go_on.wait(30)
        return read(self, source)

    monkeypatch.setattr(Pipeline, "read", wait_and_read)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(predict, client, long)
        assert began.wait(30)
        other = predict(client, short)
        refused = predict(client, long)
        go_on.set()

    assert (slow.result().status_code, other.status_code) == (200, 200)
    assert refused.status_code == 503
    assert "takes long" in refused.json()["error"]


def test_no_decoding_child_remains_if_the_model_loads_after_shutdown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_load = Event()
    load_classifier = Classifier.load

    def wait_and_load(weights: Path | None, device: str) -> Classifier:
        may_load.wait(30)
        return load_classifier(weights, device)

    monkeypatch.setattr(Classifier, "load", wait_and_load)
    analyzer = Analyzer(load(None, {}), UploadLimit())
    with analyzer:
        pass
    may_load.set()
    analyzer._thread.shutdown()

    assert analyzer._pipeline.result().child.pid is None


def test_an_image_that_takes_too_long_is_refused(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def time_out(_self: Pipeline, _source: Source) -> DecodedInstance:
        raise ChildTimeoutError("Decoding took longer than 60 s.")

    monkeypatch.setattr(Pipeline, "read", time_out)
    response = predict(client, encoded(phantom()))

    assert response.status_code == 400
    assert response.json() == {"error": "Decoding took longer than 60 s."}


@pytest.mark.alone
def test_health_responds_while_a_large_image_is_analyzed(client: httpx.Client) -> None:
    large = cv2.resize(phantom(), (4000, 5000), interpolation=cv2.INTER_CUBIC)
    content = encoded(large, "JPEG")
    waits = []
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(predict, client, content)
        while not request.done():
            start = time.monotonic()
            client.get("/healthz")
            waits.append(time.monotonic() - start)

    assert request.result().status_code == 200
    # If the event loop were blocked, one response would take as long as the analysis.
    # The longest waits are excluded, because other processes share the processor.
    assert len(waits) >= 20
    assert statistics.quantiles(waits, n=20)[-1] < 0.05


class TestDescription:
    def test_every_response_has_an_example(self, client: httpx.Client) -> None:
        described = client.get("/openapi.json").json()["paths"]["/predict"]["post"]

        responses = described["responses"]
        assert set(responses) == {
            *("200", "400", "401", "403", "408", "413", "415", "503", "default")
        }
        for status in sorted(set(responses) - {"200"}):
            example = responses[status]["content"]["application/json"]["example"]
            assert list(example) == ["error"]

    def test_example_has_the_fields_of_a_response(self, client: httpx.Client) -> None:
        document = client.get("/openapi.json").json()
        example = document["components"]["schemas"]["Prediction"]["example"]

        assert example.keys() == predict(client, encoded(phantom())).json().keys()

    def test_form_has_the_file_field(self, client: httpx.Client) -> None:
        described = client.get("/openapi.json").json()["paths"]["/predict"]["post"]

        form = described["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert form["required"] == ["file"]
        assert form["properties"]["file"]["format"] == "binary"
