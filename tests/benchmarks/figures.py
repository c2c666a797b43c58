"""`make bench`: time and memory for a 12.5 MB radiograph, measured on this machine.

The times of the parts of an analysis are medians of several runs, with one thread. The
other figures come from one run of a whole node. There are no assertions: the figures
are for people to compare.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path

import httpx
import torch
from pydicom import Dataset
from pydicom.uid import generate_uid

from config.destinations import Address
from config.settings import load
from dicom_node.analysis.pipeline import make_pipeline
from dicom_node.commands.node import Node
from dicom_node.dataset.local_file import read_local_file, read_local_header
from dicom_node.delivery.c_store import echo, send
from dicom_node.demo.archive import Archive, start_archive
from dicom_node.demo.demo import CONFIG
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.log.format import configure_logging
from dicom_node.outcome import Verdict
from dicom_node.storage.database import open_engine, reading
from dicom_node.storage.heartbeat_rows import alive_workers
from inference.classification.preprocess import normalized, prepare
from inference.phantom.long_bone import draw_phantom

SIDE = 2500  # 2500 x 2500 pixels at 16 bits allocated are 12.5 MB
RUNS = 9
WARM, TIMES = 5, 200
IDLE_S = 30.0


def main() -> None:
    """Measure all figures, and print them."""
    configure_logging("bench")
    torch.set_num_threads(1)
    dataset = phantom_dataset(draw_phantom(broken=True, rows=SIDE, columns=SIDE))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "phantom.dcm"
        dataset.save_as(path, enforce_file_format=True)
        print_table("one DX image of 12.5 MB", parts(path))
        print_table("the whole node", whole_node(dataset, Path(folder)))


def print_table(title: str, rows: dict[str, str]) -> None:
    """Print figures under a title."""
    width = max(map(len, rows))
    lines = "".join(f"  {name:<{width}}  {value}\n" for name, value in rows.items())
    sys.stdout.write(f"{title}\n{lines}")


def median_ms(call: Callable[[], object]) -> str:
    """Return the median time of RUNS calls in milliseconds, as text.

    Before the measurement, the function makes one call that does not count.
    """
    call()
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return f"{statistics.median(seconds) * 1000:7.1f} ms"


def parts(path: Path) -> dict[str, str]:
    """Return the median times of an analysis and of parts of it, as text by name.

    `path` is the file of the analyzed image.
    """
    pipeline = make_pipeline(load(None), ignore_age=True)
    instance = read_local_file(path, read_local_header(path, 2**30))
    encode = partial(pipeline.encode, instance)
    analysis = pipeline.analyze(instance, encode)
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
            lambda: pipeline.analyze(instance, encode)
        ),
    }
    pipeline.child.close()
    return figures


def whole_node(dataset: Dataset, folder: Path) -> dict[str, str]:
    """Measure the start, the turnarounds, the idle load and the memory of a node.

    Returns:
        The figures as text, by name.
    """
    archive = start_archive(folder / "archive")
    config = folder / "node.toml"
    config.write_text(CONFIG.format(receiver=0, api=0, archive=archive.port))
    started = time.perf_counter()
    with Node(load(config), config) as node, node.watched():
        address = Address(
            ae_title="FRACTURE_AI", host="127.0.0.1", port=node.receiver_port
        )
        while echo(address, calling_ae_title="BENCH").verdict is not Verdict.STORED:
            time.sleep(0.02)
        receiving = time.perf_counter() - started
        while not is_ready(node.api_port) or not works(config):
            time.sleep(0.02)
        ready = time.perf_counter() - started
        for _ in range(WARM):
            send_one(dataset, folder, address, archive)
        seconds = [send_one(dataset, folder, address, archive) for _ in range(TIMES)]
        time.sleep(2)
        pids = {role.process.name: role.pid for role in node.roles if role.pid}
        before = sum(map(cpu_s, pids.values()))
        time.sleep(IDLE_S)
        idle = (sum(map(cpu_s, pids.values())) - before) / IDLE_S
        memory = {name: peak_mb(pid) for name, pid in pids.items()}
    archive.stop()
    seconds.sort()
    return {
        "start until C-ECHO is answered": f"{receiving:7.1f} s",
        "start until api and worker are ready": f"{ready:7.1f} s",
        f"turnaround, p50 of {TIMES}": f"{statistics.median(seconds) * 1000:7.0f} ms",
        "turnaround, p99": f"{seconds[TIMES * 99 // 100 - 1] * 1000:7.0f} ms",
        "turnaround, longest": f"{seconds[-1] * 1000:7.0f} ms",
        "idle, of one core": f"{idle * 100:7.1f} %",
        **{f"peak memory, {name}": f"{mb:7.0f} MB" for name, mb in memory.items()},
    }


def send_one(
    dataset: Dataset, folder: Path, address: Address, archive: Archive
) -> float:
    """Send the dataset with a new SOP Instance UID, and wait for its result.

    Returns:
        The seconds from the response of the node until the archive has stored the
            result.
    """
    path, known = folder / "next.dcm", len(archive.log)
    dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    send([path], address, calling_ae_title="BENCH")
    start = time.perf_counter()
    archive.wait(known + 1, timeout_s=120)
    return time.perf_counter() - start


def is_ready(port: int) -> bool:
    """Return whether /readyz reports that the node is ready."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == HTTPStatus.OK
    except httpx.HTTPError:
        return False


def works(config: Path) -> bool:
    """Return whether a worker of the node sends heartbeats.

    `config` is the file with the settings of the node.
    """
    engine = open_engine(load(config).storage.database_url)
    with reading(engine) as connection:
        found = alive_workers(connection, "worker")
    engine.dispose()
    return bool(found)


def cpu_s(pid: int) -> float:
    """Return the processor seconds of a process, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1]
    ticks = sum(map(int, fields.split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    """Return the peak resident memory of a process in MiB (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(each for each in status.splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
