"""Classification of radiographs with the shipped weights and with other weights."""

import ctypes
import io
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.models import ResNet, resnet18

from inference.classification import classifier
from inference.classification.classifier import (
    SHIPPED,
    Classifier,
    phantom_logits,
    preload,
    record,
    self_test,
)
from inference.finding import OperatingPoint
from inference.phantom.long_bone import draw_phantom
from inference.radiograph import Radiograph
from inference.training.phantoms import random_phantom
from models.card import ModelError, card_text, read_card
from tests.support.side_by_side import side_by_side

EXAMPLE = SHIPPED.with_name("original_app.example.toml")

PRELOAD_AND_USE = """
import ctypes

def refuse(*_):
    raise OSError("there is no such library, or this call is not expected")

path = Path(arguments[0])
ctypes.CDLL = refuse  # there is no GPU
wait = classifier.preload(path, "auto")
classifier.phantom_logits = refuse  # the model is not tested again
wait()
loaded = classifier.Classifier.load(path, "auto")
classifier.self_test(loaded)
assert loaded is classifier.Classifier.load(path, "cpu")
assert loaded is classifier._preloaded
"""
PRELOAD_AND_FAIL = """
import time
from models.card import ModelError

wrong = {"whole": (100.0, -100.0), "broken": (100.0, -100.0)}
outcomes = {"wrong": lambda _: wrong, "no end": lambda _: time.sleep(600)}
classifier.phantom_logits = outcomes[arguments[1]]
classifier.TEST_S = int(arguments[2])
try:
    classifier.preload(Path(arguments[0]), "cpu")()
except ModelError as error:
    assert "self-test" in str(error)
else:
    raise AssertionError("no ModelError")
assert classifier._preloaded is None
"""


SERVE = """
import json, os, signal, sys
from pathlib import Path
from inference.classification import classifier

for line in sys.stdin:
    script, arguments = json.loads(line)
    if not (child := os.fork()):
        signal.alarm(120)
        exec(script)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""The program of a process that runs scripts in forks.

Each line of its input is a JSON list: a script, and the list of its arguments. For each
line, it writes the exit status of the fork.
"""


@pytest.fixture(scope="module")
def run_alone() -> Iterator[Callable[..., None]]:
    """A function that runs a script in a process without threads.

    The script may fork. A fork of a process with threads, such as the test process, may
    wait forever for a lock. The function fails if the exit status of the script is not
    0.
    """
    with subprocess.Popen(
        [sys.executable, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:

        def run(script: str, *arguments: str) -> None:
            server.stdin.write(json.dumps([script, arguments]).encode() + b"\n")
            server.stdin.flush()
            assert server.stdout.readline() == b"0\n"

        yield run
        server.stdin.close()


@pytest.fixture(scope="module")
def shipped() -> Classifier:
    return Classifier.load(None, "cpu")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The path of a copy of the shipped weights. A copy of their card is beside it."""
    shutil.copy(SHIPPED, tmp_path / "mine.pth")
    shutil.copy(SHIPPED.with_suffix(".toml"), tmp_path / "mine.toml")
    return tmp_path / "mine.pth"


def original_app(seed: int) -> ResNet:
    """Return an untrained network like that of an earlier web application.

    models/README.md calls it the original application.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = resnet18(weights=None)
        network.fc = torch.nn.Linear(512, 2)
        torch.nn.init.normal_(network.fc.weight, std=0.1)
        return network.eval()


class TestShipped:
    """The weights that come with the node."""

    def test_broken_phantom_is_a_fracture_with_an_arrow_at_the_break(
        self, shipped: Classifier
    ) -> None:
        phantom = draw_phantom(broken=True)

        finding = shipped.classify(phantom.radiograph())

        assert finding.label == "Fracture"
        assert finding.operating_point is OperatingPoint.DEFINITE
        assert finding.probability > 0.5
        assert finding.arrow is not None
        assert phantom.fracture is not None
        left, top, right, bottom = phantom.fracture
        assert left < finding.arrow.tip[0] < right
        assert top < finding.arrow.tip[1] < bottom

    def test_each_of_three_fractures_is_a_location_with_a_finding_threshold(
        self, shipped: Classifier
    ) -> None:
        radiograph, boxes = side_by_side(3)
        card = replace(shipped.card, finding_threshold=0.01)

        finding = replace(shipped, card=card).classify(radiograph)

        assert len(finding.locations) == len(boxes)
        tips = sorted(location.arrow.tip for location in finding.locations)
        for (column, row), (left, top, right, bottom) in zip(tips, boxes, strict=True):
            assert left < column < right
            assert top < row < bottom
        scores = [location.score for location in finding.locations]
        assert scores == sorted(scores, reverse=True)
        assert max(scores) < finding.probability
        assert [each.operating_point for each in finding.locations] == [
            *(OperatingPoint.DEFINITE, OperatingPoint.DEFINITE),
            OperatingPoint.DOUBTFUL,
        ]
        odds = [(each / (1 - each)) ** card.temperature for each in scores]
        p = finding.probability
        whole = (p / (1 - p)) ** card.temperature
        assert 0.9 * whole < sum(odds) < whole

    def test_border_changes_nothing_if_it_is_cropped(self, shipped: Classifier) -> None:
        card = replace(shipped.card, crop="exposed_area")
        pixels = draw_phantom(broken=True).radiograph().pixels[100:, 50:]
        above, before = 120, 30
        bordered = np.pad(pixels, ((above, 40), (before, 200)))

        plain, other = (
            replace(shipped, card=card).classify(Radiograph(each, None, each.shape))
            for each in (pixels, bordered)
        )

        assert other.probability == plain.probability
        assert plain.arrow is not None
        assert other.arrow is not None
        column, row = other.arrow.tip
        assert (column - before, row - above) == pytest.approx(plain.arrow.tip, abs=3)
        assert other.saliency.shape[0] > plain.saliency.shape[0]

    def test_whole_phantom_is_no_fracture_and_has_no_arrow(
        self, shipped: Classifier
    ) -> None:
        finding = shipped.classify(draw_phantom(broken=False).radiograph())

        assert finding.label == "No Fracture"
        assert finding.operating_point is OperatingPoint.NONE
        assert finding.probability < shipped.card.doubtful
        assert finding.arrow is None

    @pytest.mark.parametrize(
        ("rows", "columns"),
        [(1200, 900), (900, 1200), (1000, 700), (500, 1200), (1200, 500)],
    )
    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_arrow_points_at_the_break_for_any_aspect_ratio(
        self, shipped: Classifier, rows: int, columns: int, seed: int
    ) -> None:
        phantom = draw_phantom(broken=True, rows=rows, columns=columns, seed=seed)

        arrow = shipped.classify(phantom.radiograph()).arrow

        assert arrow is not None
        assert phantom.fracture is not None
        left, top, right, bottom = phantom.fracture
        assert left < arrow.tip[0] < right
        assert top < arrow.tip[1] < bottom

    def test_nine_of_ten_random_phantoms_have_the_right_label_and_arrow(
        self, shipped: Classifier
    ) -> None:
        right = 0
        for seed in range(900, 930):
            broken = seed % 2 == 0
            radiograph, box = random_phantom(seed, broken=broken)
            finding = shipped.classify(radiograph)
            hit = finding.is_fracture == broken
            if box is not None and finding.arrow is not None:
                column, row = finding.arrow.tip
                hit &= box[0] < column < box[2] and box[1] < row < box[3]
            right += hit

        assert right >= 27

    @pytest.mark.parametrize(
        "pixels",
        [
            pytest.param(np.zeros((600, 400), np.uint8), id="black"),
            pytest.param(np.full((10, 900), 255, np.uint8), id="a-white-strip"),
            pytest.param(np.full((1, 1), 128, np.uint8), id="one-pixel"),
            pytest.param(
                np.random.default_rng(1).integers(0, 256, (500, 500), np.uint8),
                id="noise",
            ),
        ],
    )
    def test_finding_of_any_picture_is_in_range(
        self,
        shipped: Classifier,
        pixels: np.ndarray[tuple[int, int], np.dtype[np.uint8]],
    ) -> None:
        unlimited = replace(shipped, card=replace(shipped.card, unfamiliar=None))

        finding = unlimited.classify(Radiograph(pixels, None, pixels.shape))

        assert 0 <= finding.probability <= 1
        assert np.isfinite(finding.saliency).all()
        assert 0 <= finding.saliency.min() <= finding.saliency.max() <= 1
        if finding.arrow is not None:
            rows, columns = pixels.shape
            assert 0 < finding.arrow.tip[0] < columns
            assert 0 < finding.arrow.tip[1] < rows

    def test_concurrent_classification_gives_the_same_findings(
        self, shipped: Classifier
    ) -> None:
        pictures = [random_phantom(seed, broken=True)[0] for seed in range(4)]
        sequential = [shipped.classify(picture) for picture in pictures]

        with ThreadPoolExecutor(8) as pool:
            concurrent = list(pool.map(shipped.classify, pictures * 2))

        for one, other in zip(sequential * 2, concurrent, strict=True):
            assert other.probability == pytest.approx(one.probability, abs=1e-6)
            np.testing.assert_allclose(other.saliency, one.saliency, atol=1e-5)
            assert other.arrow == one.arrow

    def test_card_has_the_digest_name_and_training_data(
        self, shipped: Classifier
    ) -> None:
        assert shipped.identity.digest == shipped.card.sha256
        assert shipped.identity.name == "fracture-resnet18"
        assert "FracAtlas" in SHIPPED.with_suffix(".toml").read_text("utf-8")
        assert SHIPPED.stat().st_size < 25e6


class TestOriginalApp:
    """Weights like those of the original application, loaded with the example card."""

    @staticmethod
    def saved(folder: Path, sign: int) -> Path:
        path = folder / "model.pth"
        network = original_app(2)
        network.fc.weight.data *= sign
        torch.save(network.state_dict(), path)
        shutil.copy(EXAMPLE, path.with_suffix(".toml"))
        return path

    @pytest.mark.parametrize(("sign", "label"), [(1, "Fracture"), (-1, "No Fracture")])
    def test_label_and_percentage_equal_those_of_the_original_pipeline(
        self, tmp_path: Path, sign: int, label: str
    ) -> None:
        weights = self.saved(tmp_path, sign)
        classifier = Classifier.load(weights, "cpu")
        network = resnet18(weights=None, num_classes=2)
        network.load_state_dict(torch.load(weights, weights_only=True))
        network.eval()
        pipeline = transforms.Compose(
            [transforms.Resize((224, 224)), transforms.ToTensor()]
        )
        for rows, columns in [(400, 300), (90, 130), (800, 640)]:
            picture = draw_phantom(
                broken=True, rows=rows, columns=columns, seed=columns
            ).radiograph()
            image = Image.fromarray(picture.pixels).convert("RGB")
            with torch.no_grad():
                probabilities = network(pipeline(image)[None]).softmax(1)[0]
            expected = ["Fracture", "No Fracture"][int(probabilities.argmax())]

            finding = classifier.classify(picture)

            assert finding.label == expected == label
            assert (
                f"{finding.confidence:.1%}"
                == f"{probabilities.max().item() * 100:.1f}%"
            )

    def test_record_adds_the_digest_to_the_card_and_keeps_its_comments(
        self, tmp_path: Path
    ) -> None:
        weights = self.saved(tmp_path, 1)
        card = record(weights)

        text = weights.with_suffix(".toml").read_text("utf-8")
        assert read_card(weights.with_suffix(".toml")) == card
        assert "# as results show it; increase it" in text
        classifier = Classifier.load(weights, "cpu")
        assert classifier.card.sha256 == classifier.identity.digest
        self_test(classifier)


class TestSelfTest:
    """The self-test, and the logits for it that `record` writes to the card."""

    def test_self_test_passes_with_the_shipped_weights(
        self, shipped: Classifier
    ) -> None:
        self_test(shipped)

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({"resize": "stretch"}, id="another-resize"),
            pytest.param({"mean": (0.0, 0.0, 0.0)}, id="another-normalization"),
            pytest.param({"classes": ("No Fracture", "Fracture")}, id="same-logits"),
        ],
    )
    def test_self_test_fails_only_if_logits_change(
        self, shipped: Classifier, change: dict[str, object]
    ) -> None:
        changed = replace(shipped, card=replace(shipped.card, **change))  # type: ignore[arg-type]

        if "classes" in change:
            self_test(changed)
        else:
            with pytest.raises(ModelError, match="The self-test failed: for the"):
                self_test(changed)

    def test_self_test_passes_if_the_card_has_no_phantom_logits(
        self, shipped: Classifier
    ) -> None:
        self_test(replace(shipped, card=replace(shipped.card, phantom_logits={})))

    def test_record_rewrites_a_card_with_another_layout(self, copy: Path) -> None:
        card = copy.with_suffix(".toml")
        table = replace(read_card(card), phantom_logits={}, sha256="")
        text = card_text(table).replace("phantom_logits = {}\n", "")
        card.write_text(
            text + "[phantom_logits]\nwhole = [0, 0]\nbroken = [0, 0]\n", "utf-8"
        )

        record(copy)

        assert tomllib.loads(card.read_text("utf-8"))["phantom_logits"] == {
            name: list(logits)
            for name, logits in phantom_logits(Classifier.load(copy, "cpu")).items()
        }


class TestRefused:
    """Errors for weights or devices that cannot be used."""

    def test_damaged_weights_are_refused(self, copy: Path) -> None:
        content = bytearray(copy.read_bytes())
        content[len(content) // 2] ^= 1
        copy.write_bytes(content)

        with pytest.raises(ModelError, match="do not match their card"):
            Classifier.load(copy, "cpu")

    def test_missing_weights_are_refused(self, copy: Path) -> None:
        copy.unlink()

        with pytest.raises(ModelError, match=r"mine\.pth cannot be read: No such file"):
            Classifier.load(copy, "cpu")

    @pytest.mark.skipif(torch.cuda.device_count() > 7, reason="the device exists")
    def test_absent_device_is_refused(self, copy: Path) -> None:
        with pytest.raises(
            ModelError, match="device cuda:7 does not exist: torch finds"
        ):
            Classifier.load(copy, "cuda:7")

    def test_probability_that_is_not_a_number_is_refused(self, tmp_path: Path) -> None:
        network = original_app(1)
        torch.nn.init.constant_(network.fc.weight, 3e38)  # overflows
        weights = tmp_path / "model.pth"
        torch.save(network.state_dict(), weights)
        shutil.copy(EXAMPLE, weights.with_suffix(".toml"))
        classifier = Classifier.load(weights, "cpu")

        with pytest.raises(ModelError, match="a result that is not a number"):
            classifier.classify(
                draw_phantom(broken=True, rows=90, columns=60).radiograph()
            )
        with pytest.raises(ModelError, match="the result is not a number"):
            self_test(classifier)


class TestOperatingPoints:
    """Probability, temperature and the two operating points of the card."""

    @pytest.mark.parametrize(
        ("logits", "temperature", "probability", "point"),
        [
            # The softmax of (ln 3, 0), and of (2 ln 3, 0) at T = 2, is (3/4, 1/4).
            pytest.param((np.log(3), 0), 1.0, 0.75, "doubtful", id="between"),
            pytest.param((np.log(9), 0), 2.0, 0.75, "doubtful", id="softened"),
            pytest.param((np.log(9), 0), 1.0, 0.9, "definite", id="above-both"),
            pytest.param((0, np.log(3)), 1.0, 0.25, "none", id="below-both"),
            pytest.param((0, 0), 1.0, 0.5, "doubtful", id="at-the-point"),
        ],
    )
    def test_operating_point_is_the_highest_point_reached(
        self,
        logits: tuple[float, float],
        temperature: float,
        probability: float,
        point: str,
    ) -> None:
        network = original_app(1)
        torch.nn.init.zeros_(network.fc.weight)
        network.fc.bias = torch.nn.Parameter(torch.tensor(logits, dtype=torch.float32))
        buffer = io.BytesIO()
        torch.save(network.state_dict(), buffer)
        card = replace(read_card(EXAMPLE), temperature=temperature, definite=0.8)
        classifier = Classifier.from_card(card, buffer.getvalue(), "cpu")

        finding = classifier.classify(
            draw_phantom(broken=True, rows=60, columns=60).radiograph()
        )

        assert finding.probability == pytest.approx(probability, abs=1e-6)
        assert finding.operating_point == point
        # With zero weights, no part of the image contributes to the score.
        assert not finding.saliency.any()
        assert finding.arrow is None


class TestPreload:
    """A process that loads and tests a classifier for its forks."""

    @pytest.fixture(autouse=True)
    def nothing_is_preloaded(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(classifier, "_preloaded", None)
        threads = torch.get_num_threads()
        yield
        # Restore the number of threads for the next tests of this process.
        torch.set_num_threads(threads)

    def test_preloaded_classifier_is_used_and_not_tested_again(
        self, copy: Path, run_alone: Callable[..., None]
    ) -> None:
        run_alone(PRELOAD_AND_USE, str(copy))

    def test_changed_weights_and_cards_are_loaded_again(
        self, copy: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Nothing is forked here: see run_alone.
        passed = partial(os.posix_spawn, "/bin/true", ["true"], {})
        monkeypatch.setattr(classifier, "_begin_test", lambda _: passed())
        preload(copy, "cpu")()
        card = read_card(copy.with_suffix(".toml"))
        same = Classifier.load(copy, "cpu")
        edited = replace(card, version="changed", sha256="")
        copy.with_suffix(".toml").write_text(card_text(edited))
        changed = Classifier.load(copy, "cpu")
        state = torch.load(copy, weights_only=True)
        torch.save({name: value.float() * 2 for name, value in state.items()}, copy)
        doubled = Classifier.load(copy, "cpu")

        assert same is classifier._preloaded
        assert changed is not same
        assert changed.card.version == "changed"
        assert doubled.identity.digest != changed.identity.digest

    def test_wrong_weights_are_not_preloaded(self, copy: Path) -> None:
        copy.write_bytes(copy.read_bytes() + b"more")
        with pytest.raises(ModelError, match="SHA-256"):
            preload(copy, "cpu")

        assert classifier._preloaded is None

    @pytest.mark.parametrize(("outcome", "limit_s"), [("wrong", 60), ("no end", 1)])
    def test_weights_that_fail_the_test_are_not_preloaded(
        self,
        copy: Path,
        outcome: str,
        limit_s: int,
        run_alone: Callable[..., None],
    ) -> None:
        run_alone(PRELOAD_AND_FAIL, str(copy), outcome, str(limit_s))

    def test_card_without_digest_is_not_preloaded(
        self, copy: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = copy.with_suffix(".toml")
        path.write_text(card_text(replace(read_card(path), sha256="")))
        preload(copy, "cpu")()

        assert classifier._preloaded is None
        assert not caplog.records  # each role warns of that when it loads the model

    @pytest.mark.parametrize("device", ["auto", "cuda", "cuda:1"])
    def test_nothing_is_preloaded_if_a_gpu_may_be_used(
        self, device: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ctypes, "CDLL", lambda _: None)
        preload(None, device)()

        assert classifier._preloaded is None
