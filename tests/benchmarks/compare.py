"""`make bench`: compare the node with the baseline, with the same network.

Node and baseline are measured alternately, in pairs, so that other load on the machine
slows both. A row of the output has the median of the node, the median of the baseline,
the median of the ratios of the pairs, and for some rows the floor: the time of the
steps that are indispensable. Only the last row, with images per second, has the results
of a single measurement.
"""

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from pydicom import Dataset
from pydicom.uid import generate_uid

from config.destinations import Address
from config.settings import load
from dicom_node.analysis.pipeline import make_pipeline
from dicom_node.commands.node import Node
from dicom_node.delivery.c_store import send
from dicom_node.demo.archive import Archive, start_archive
from dicom_node.demo.demo import CONFIG
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.log.format import configure_logging
from dicom_node.pixels.decode import DecodeOptions, decode_file
from dicom_node.pixels.intended_use import IntendedUse
from dicom_node.pixels.screening import ScreeningRules
from inference.classification.classifier import Classifier
from inference.classification.gradcam import grad_cam
from inference.classification.preprocess import normalized, prepare
from inference.phantom.long_bone import draw_phantom
from models.card import FRACTURE
from models.network import build_network, split_network
from tests.benchmarks.baseline import Baseline

SIDE = 2500  # 2500 x 2500 pixels at 16 bits allocated are 12.5 MB
PAIRS = 9
SENDERS, EACH = 4, 15
WEIGHTS = Path(__file__).resolve().parents[2] / "models" / "fracture_model.pth"
Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Implementation:
    """The node or the baseline, with its address and its archive."""

    name: str
    address: Address
    archive: Archive


def main() -> None:
    """Measure each row, and print it."""
    configure_logging("bench")
    torch.set_num_threads(1)
    dataset = phantom_dataset(draw_phantom(broken=True, rows=SIDE, columns=SIDE))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset.save_as(folder / "phantom.dcm", enforce_file_format=True)
        say(f"{'':<44}{'ours':>10}{'baseline':>10}{'ratio':>8}{'floor':>10}")
        parts(folder)
        with both(folder) as implementations:
            idle(implementations, dataset, folder)
            sustained(implementations, dataset, folder)


def parts(folder: Path) -> None:
    """Print a row for each part of an analysis that is compared."""
    path = folder / "phantom.dcm"
    settings = load(None)
    pipeline = make_pipeline(settings, ignore_age=True)
    card, network = pipeline.classifier.card, pipeline.classifier.network
    baseline = straightforward(pipeline.classifier)
    _, _, tensor = baseline.decode(path)
    part10 = path.read_bytes()
    rules = ScreeningRules(
        0, IntendedUse(card.body_parts), datetime.now().astimezone().date()
    )
    options = DecodeOptions(settings.worker.window, settings.worker.max_megapixels)

    def forward() -> object:
        with torch.inference_mode():
            return baseline.network.head(baseline.network.features(tensor))

    def ours() -> object:
        decoded = decode_file(path, rules, options)
        return normalized(prepare(decoded.radiograph, card).gray, card)

    def floor() -> object:
        values = np.frombuffer(part10[-2 * SIDE * SIDE :], "<u2")
        return np.arange(65536, dtype=np.uint16).astype(np.uint8)[values]

    row(
        "Grad-CAM with answer",
        lambda: grad_cam(network, tensor, baseline.label),
        lambda: baseline.classify(tensor),
        forward,
    )
    row(
        "from disk to display and input",
        ours,
        lambda: baseline.decode(BytesIO(part10)),
        floor,
    )
    pipeline.child.close()


def straightforward(classifier: Classifier) -> Baseline:
    """Return the baseline, in which batch normalization has layers of its own.

    The node folds the batch normalization of the same weights into the convolutions.
    """
    card = classifier.card
    state = torch.load(WEIGHTS, weights_only=True)
    network = build_network(card)
    network.load_state_dict(
        {name: value.float() for name, value in state.items()}, strict=False
    )
    return Baseline(
        split_network(network.eval(), card), card, card.classes.index(FRACTURE)
    )


def row(name: str, ours: Call, baseline: Call, floor: Call) -> None:
    """Time the three calls alternately, several times, and print a row."""
    calls = ours, baseline, floor
    times = [[seconds(each) for each in calls] for _ in range(PAIRS + 1)]
    line(name, times[1:])  # the first one fills caches


def seconds(call: Call) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def line(name: str, times: Sequence[Sequence[float]]) -> None:
    """Print a row with the medians of times, and the median ratio.

    `times` has (node, baseline) or (node, baseline, floor) of each pair, in seconds.
    """
    medians = [1000 * statistics.median(each) for each in zip(*times, strict=True)]
    ratio = statistics.median(each[1] / each[0] for each in times)
    floor = f"{medians[2]:>7.0f} ms" if len(medians) > 2 else ""
    ours, baseline = f"{medians[0]:>7.0f} ms", f"{medians[1]:>7.0f} ms"
    say(f"{name:<44}{ours}{baseline}{ratio:>7.1f}x{floor}")


@contextmanager
def both(folder: Path) -> Iterator[tuple[Implementation, Implementation]]:
    """Run the node and the baseline, each with its own archive; yield both."""
    mine, other = (start_archive(folder / name) for name in ("ours", "baseline"))
    config = folder / "node.toml"
    config.write_text(CONFIG.format(receiver=0, api=0, archive=mine.port))
    baseline = straightforward(Classifier.load(None, "cpu"))
    with (
        Node(load(config), config) as node,
        node.watched(),
        baseline.serving(other.port) as port,
    ):
        yield (
            Implementation("ours", address("FRACTURE_AI", node.receiver_port), mine),
            Implementation("baseline", address("BASELINE", port), other),
        )
    for each in (mine, other):
        each.stop()


def address(title: str, port: int) -> Address:
    """Return the address of an AE on this machine."""
    return Address(ae_title=title, host="127.0.0.1", port=port)


def fresh(dataset: Dataset, path: Path) -> Path:
    """Write the dataset to `path` with a new SOP Instance UID; return `path`.

    The dataset is changed, too.
    """
    dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path


def idle(
    implementations: tuple[Implementation, Implementation],
    dataset: Dataset,
    folder: Path,
) -> None:
    """Print the time from the start of sending until the archive has stored the result.

    The time does not start at the response to the C-STORE, because the baseline
    responds only when all work is done.
    """
    times = []
    for number in range(PAIRS + 2):
        pair = []
        for implementation in implementations:
            path = fresh(dataset, folder / "next.dcm")
            known = len(implementation.archive.log)
            start = time.perf_counter()
            send([path], implementation.address, calling_ae_title="BENCH")
            implementation.archive.wait(known + 1, timeout_s=120)
            pair.append(time.perf_counter() - start)
        if number > 1:  # the first ones wait until the model is loaded
            times.append(pair)
    line("sent to stored by the archive, idle", times)


def sustained(
    implementations: tuple[Implementation, Implementation],
    dataset: Dataset,
    folder: Path,
) -> None:
    """Print the images per second with several senders.

    The measurement ends when the archive has stored the last result.
    """
    paths = [
        [fresh(dataset, folder / f"{sender}-{n}.dcm") for n in range(EACH)]
        for sender in range(SENDERS)
    ]
    rates = []
    for implementation in implementations:
        known, count = len(implementation.archive.log), SENDERS * EACH
        start = time.perf_counter()
        senders = [
            threading.Thread(
                target=send, args=(files, implementation.address), kwargs=CALLING
            )
            for files in paths
        ]
        for each in senders:
            each.start()
        for each in senders:
            each.join()
        implementation.archive.wait(known + count, timeout_s=600)
        rates.append(count / (time.perf_counter() - start))
    ours, baseline = rates
    name = f"{SENDERS} senders, {SENDERS * EACH} images, images/s"
    say(f"{name:<44}{ours:>8.2f}  {baseline:>8.2f}  {ours / baseline:>6.1f}x")


CALLING = {"calling_ae_title": "BENCH"}


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
