"""Analyzes DICOM files and plain images, and writes the results to a folder.

For a DICOM file, the command writes the result objects that the node would make for the
image, and a PNG of the image with the result. For a plain image, it writes only the
PNG. Studies of any age are analyzed. If a file fails, the other files are still
analyzed.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from config.settings import Settings
from dicom_node.analysis.pipeline import Pipeline, Source, make_pipeline
from dicom_node.commands.input_files import file_problem, input_files, printable
from dicom_node.dataset.local_file import read_local_file, read_local_header
from dicom_node.dataset.part10 import is_dicom
from dicom_node.errors import DicomNodeError, NotAnalyzedError
from dicom_node.instance import ReceivedInstance
from dicom_node.runtime.process import keep_files_private, load_or_exit, role_parser
from inference.drawing.caption import describe
from inference.finding import Finding, OperatingPoint
from inference.plain_image import NotAnImageError, PlainImageError
from inference.radiograph import Radiograph
from models.card import ModelError

NEITHER = (
    "The file is neither DICOM nor an image in a format that can be read. Name DICOM, "
    "PNG, JPEG, BMP, TIFF or WebP files."
)
NO_DECODER = (
    "Check the free memory, the limit on the processes of this user (ulimit -u), and "
    "decode_memory_mb under [worker]. Then run the command again."
)


@dataclass(frozen=True, slots=True)
class Line:
    """The outcome for one file.

    Attributes:
        path: The file.
        state: "analyzed", "not analyzed" or "failed".
        answer: "Fracture" or "No Fracture"; empty without a result.
        probability: The probability of a fracture, from 0 to 1, with four decimals.
            None without a result.
        reason: Sentences that say why there is no result; empty with a result.
        written: The paths of the files that were written.
        operating_point: "none", "doubtful" or "definite"; empty without a result.
    """

    path: str
    state: str
    answer: str = ""
    probability: float | None = None
    reason: str = ""
    written: tuple[str, ...] = ()
    operating_point: str = ""


def main() -> None:
    """Analyze the named files, and print the outcome of each.

    The exit status is 0 if no file failed. It is 1 if a file failed or the folder for
    the results cannot be created. It is 2 if the settings are invalid, the model cannot
    be used or the decoder does not start.
    """
    parser = role_parser("analyze", __doc__)
    parser.add_argument(
        "paths", nargs="+", type=Path, help="DICOM or image files, and folders of them"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    arguments = parser.parse_args()
    keep_files_private()
    torch.set_num_threads(1)
    try:
        lines = run(load_or_exit(arguments.config), arguments)
    except ModelError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    if arguments.json:
        sys.stdout.writelines(json.dumps(asdict(each)) + "\n" for each in lines)
    else:
        _print(lines)
    sys.exit(1 if any(each.state == "failed" for each in lines) else 0)


def run(settings: Settings, arguments: argparse.Namespace) -> list[Line]:
    """Analyze the named files, and return a Line for each.

    The process exits with a message if the folder for the results cannot be created, or
    the decoder does not start.

    Raises:
        ModelError: The model cannot be used.
    """
    paths = list(input_files(arguments.paths))
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(
            f"The folder --out {printable(arguments.out)} cannot be "
            f"created: {error.strerror}. Name a folder that this user may write to."
        )
    pipeline = _pipeline(settings)
    with Progress(console=Console(stderr=True), disable=arguments.json) as progress:
        analyze = partial(_analyze, pipeline, settings, arguments.out)
        tracked = progress.track(paths, description="Analyzing")
        lines = [analyze(path) for path in tracked]
    pipeline.child.close()
    return lines


def _pipeline(settings: Settings) -> Pipeline:
    """Return the pipeline; if the decoder does not start, exit with status 2.

    Raises:
        ModelError: The model cannot be used.
    """
    try:
        return make_pipeline(settings, ignore_age=True)
    except OSError as error:
        sys.stderr.write(f"{error}\n{NO_DECODER}\n")
        sys.exit(2)


def _analyze(pipeline: Pipeline, settings: Settings, out: Path, path: Path) -> Line:
    if problem := file_problem(path):
        return _failed(path, problem)
    try:
        target = _unused_name(out / path.name)
        source = _source(pipeline, settings, path)
        analysis = pipeline.analyze(source, partial(_write, pipeline, source, target))
        return _line(path, analysis.finding, analysis.output)
    except NotAnalyzedError as reason:
        return Line(str(path), "not analyzed", reason=str(reason))
    except (DicomNodeError, PlainImageError, OSError) as error:
        return _failed(path, _error_message(error))


def _failed(path: Path, reason: str) -> Line:
    return Line(str(path), "failed", reason=reason)


def _error_message(error: Exception) -> str:
    if isinstance(error, NotAnImageError):
        return NEITHER
    if isinstance(error, OSError) and error.strerror:
        return (
            "The file cannot be read, or the results cannot be written: "
            f"{error.strerror}. Check the file and the folder --out."
        )
    return str(error)


def _source(pipeline: Pipeline, settings: Settings, path: Path) -> Source:
    """Return what the pipeline analyzes for a file.

    A DICOM file becomes an instance, because result objects need its header. Any other
    file is returned as its path.

    Raises:
        AnalysisError: The file looks like DICOM, but cannot be read, or the decoder
            died.
        OSError: The file cannot be read, or a decoder does not start.
    """
    if not is_dicom(path):
        return path
    most = settings.receiver.max_instance_mb * 1_000_000
    return read_local_file(path, pipeline.child.run(read_local_header, path, most))


def _write(
    pipeline: Pipeline,
    source: Source,
    target: Path,
    radiograph: Radiograph,
    finding: Finding,
) -> tuple[str, ...]:
    """Write the result objects and the picture of a finding, and return their paths.

    Result objects are written only if `source` is an instance. Each path is `target`
    with a suffix.
    """
    written = []
    if isinstance(source, ReceivedInstance):
        for result in pipeline.encode(source, radiograph, finding):
            capture = target.with_name(f"{target.name}.{result.kind}{result.extension}")
            capture.write_bytes(result.content)
            written.append(str(capture))
    picture = target.with_name(f"{target.name}.png")
    Image.fromarray(pipeline.draw(radiograph, finding).pixels).save(picture)
    return (*written, str(picture))


def _unused_name(target: Path) -> Path:
    """Return `target`, with a number appended if the name is already used.

    A name is used if the file NAME.png exists beside it. For example, two input files
    in different folders may have the same name.
    """
    number, free = 1, target
    while free.with_name(f"{free.name}.png").exists():
        number += 1
        free = target.with_name(f"{target.name}-{number}")
    return free


def _line(path: Path, finding: Finding, written: tuple[str, ...]) -> Line:
    probability, point = round(finding.probability, 4), finding.operating_point.value
    return Line(str(path), "analyzed", finding.label, probability, "", written, point)


def _print(lines: list[Line]) -> None:
    for each in lines:
        if each.probability is None:
            description = f"{each.state}: {each.reason}"
        else:
            point = OperatingPoint(each.operating_point)
            description = describe(point, each.probability)
        sys.stdout.write(f"{printable(each.path)}: {description}\n")
    counts = Counter(each.state for each in lines)
    counted = ", ".join(f"{count} {state}" for state, count in counts.items())
    sys.stdout.write(f"{counted}\n")


if __name__ == "__main__":
    main()
