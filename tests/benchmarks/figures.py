"""`make bench`: seconds and memory for a 12.5 MB radiograph, measured on this machine.

Each figure is the median of several runs; one processor's worth of threads. Nothing
here is asserted: figures are for people to compare.
"""

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from pydicom import Dataset
from pydicom.uid import generate_uid

from config.destinations import Address
from config.settings import load
from dicom_node.archive import start_archive
from dicom_node.commands.demo import CONFIG
from dicom_node.local_file import adopt
from dicom_node.logs import configure_logging
from dicom_node.phantom_instance import phantom_dataset
from dicom_node.pipeline import make_pipeline
from dicom_node.sender import send
from dicom_node.supervisor import Node
from inference.phantom import draw_phantom
from inference.preprocess import normalized, prepare

SIDE = 2500  # 2500 x 2500 at 16 bits allocated are 12.5 MB
RUNS = 9


def main() -> None:
    """Measure and print."""
    configure_logging("bench")
    torch.set_num_threads(1)
    dataset = phantom_dataset(draw_phantom(broken=True, rows=SIDE, columns=SIDE))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "phantom.dcm"
        dataset.save_as(path, enforce_file_format=True)
        print_table("seconds a 12.5 MB DX", parts(path))
        print_table("the whole node", turnaround(dataset, Path(folder)))


def print_table(title: str, rows: dict[str, str]) -> None:
    """Print figures under a title."""
    width = max(map(len, rows))
    lines = "".join(f"  {name:<{width}}  {value}\n" for name, value in rows.items())
    sys.stdout.write(f"{title}\n{lines}")


def median_ms(call: Callable[[], object]) -> str:
    """Time a call, the first time not counted."""
    call()
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return f"{statistics.median(seconds) * 1000:7.1f} ms"


def parts(path: Path) -> dict[str, str]:
    """Time each part of an analysis."""
    pipeline = make_pipeline(load(None), ignore_age=True)
    instance = adopt(path, path.parent, 2**30)
    analysis = pipeline.analyze(instance, lambda _: None)
    radiograph, classifier = analysis.decoded.radiograph, pipeline.classifier
    card = classifier.card
    tensor = normalized(prepare(radiograph, card).gray, card)

    def forward() -> object:
        with torch.inference_mode():
            return classifier.network.head(classifier.network.features(tensor))

    figures = {
        "the network alone": median_ms(forward),
        "classify, with Grad-CAM and arrow": median_ms(
            lambda: classifier.classify(radiograph)
        ),
        "decode, classify and encode": median_ms(
            lambda: pipeline.analyze(instance, lambda _: None)
        ),
    }
    pipeline.child.close()
    return figures


def turnaround(dataset: Dataset, folder: Path) -> dict[str, str]:
    """Time from the C-STORE response to the result's arrival, one at a time."""
    arrived = threading.Event()
    archive = start_archive(folder / "archive", on_stored=lambda _: arrived.set())
    config = folder / "node.toml"
    config.write_text(CONFIG.format(receiver=0, api=0, archive=archive.port))
    seconds = []
    with Node(load(config), config) as node:
        address = Address(
            ae_title="FRACTURE_AI",
            host="127.0.0.1",
            port=node.receiver_port,
        )
        for number in range(RUNS + 2):
            path = folder / "next.dcm"
            dataset.SOPInstanceUID = generate_uid()
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.save_as(path, enforce_file_format=True)
            arrived.clear()
            send([path], address, calling_ae_title="BENCH")
            start = time.perf_counter()
            if not arrived.wait(120):
                sys.exit("no result in two minutes; see the log above")
            if number > 1:  # the first ones wait for the model to be loaded
                seconds.append(time.perf_counter() - start)
        memory = {
            role.name: peak_mb(role.process.pid) for role in node.roles if role.process
        }
    archive.stop()
    return {
        "turnaround, median": f"{statistics.median(seconds) * 1000:7.0f} ms",
        "turnaround, longest": f"{max(seconds) * 1000:7.0f} ms",
        **{f"peak memory, {name}": f"{mb:7.0f} MB" for name, mb in memory.items()},
    }


def peak_mb(pid: int) -> float:
    """Most memory that a process has had resident (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(each for each in status.splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
