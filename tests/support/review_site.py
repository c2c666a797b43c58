"""The API with a journal, and methods that fill the journal with phantoms.

The methods receive, analyze and deliver phantoms as a receiver and a worker do.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from api.app import create_app
from api.auth.audit import AccessEvent
from config.settings import load
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.journal.analyses import AnalysisResult, Conclusion
from dicom_node.journal.deliveries import StoredResult
from dicom_node.journal.journal import Journal
from dicom_node.outcome import Outcome, Verdict
from dicom_node.patient import Patient
from dicom_node.results.overlay_data import overlay_of
from dicom_node.storage.database import open_engine
from dicom_node.storage.tables import InstanceState, delivery
from inference.finding import Arrow, Finding, Location, ModelIdentity, Thresholds
from inference.phantom.long_bone import Phantom, draw_phantom
from tests.support.databases import create_migrated
from tests.support.http_client import ACTING, LOOKING, TOKENS, Site, bearing, serve
from tests.support.locations import locations

MODEL = ModelIdentity("phantom-model", "1.0", "0" * 64)
PACS = """
[[destinations]]
name = "pacs"
type = "dicom"
ae_title = "PACS"
host = "127.0.0.1"
port = 1
"""
STORED = Outcome(Verdict.STORED, 0x0000, "")
REFUSED = Outcome(Verdict.REFUSED, 0xC000, "0xC000 Cannot Understand")


@contextmanager
def served(site: "Review") -> Iterator[int]:
    """Serve a site, including its event streams, during the block; yield the port.

    The site is closed afterwards.
    """
    with ExitStack() as stack:
        ended = False
        site.app.state.ending = lambda: ended
        stack.callback(site.engine.dispose)
        stack.callback(site.close)
        yield serve(site.app, stack)
        ended = True


class Review(Site):
    """A site with a journal, and methods that act as a receiver and a worker."""

    def __init__(self, folder: Path, api: str = TOKENS, more: str = PACS) -> None:
        self.events = list[AccessEvent]()
        self.folder = folder
        config = folder / "node.toml"
        config.write_text(f'[api]\n{api}\n[storage]\ndirectory = "node"\n{more}')
        self.settings = load(config, {"ACTING": ACTING})
        self.guarded = self.settings.api.guarded
        create_migrated(self.settings.storage)
        self.engine = open_engine(self.settings.storage.database_url)
        directory = self.settings.storage.directory
        (directory / "spool").mkdir(exist_ok=True)
        (directory / "results").mkdir(exist_ok=True)
        self.directory = directory
        self.journal = Journal(self.engine, directory, self.settings.destinations)
        self.app = create_app(
            self.settings, checks={}, record_access=self.events.append
        )

    def receive(
        self,
        number: int = 0,
        patient: Patient | None = None,
        photometric_interpretation: str = "MONOCHROME2",
        **header: str,
    ) -> ReceivedInstance:
        """Record a phantom with a fracture as a received instance; return it.

        `number` is the seed of the phantom, and becomes the id of the instance.
        `header` has further or changed fields of InstanceHeader.
        """
        dataset = phantom_dataset(
            _phantom(number), photometric_interpretation=photometric_interpretation
        )
        identity = f"{number:032x}"
        path = self.directory / "spool" / f"{identity}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        known = {
            "sop_class_uid": str(dataset.SOPClassUID),
            "sop_instance_uid": str(dataset.SOPInstanceUID),
            "transfer_syntax_uid": str(dataset.file_meta.TransferSyntaxUID),
            "study_instance_uid": str(dataset.StudyInstanceUID),
            "modality": "DX",
            "body_part": "LEG",
        }
        received = ReceivedInstance(
            id=identity,
            path=path,
            header=InstanceHeader(
                **(known | header),  # type: ignore[arg-type]
                patient=patient or Patient("Doe^Jane", f"P{number}", f"A{number}"),
            ),
            content_digest=identity,
            size=path.stat().st_size,
            calling_ae_title="ROOM1",
            calling_address="127.0.0.1",
            received_at=datetime.now(UTC),
        )
        assert self.journal.record(received)
        return received

    def answer(
        self,
        received: ReceivedInstance,
        probability: float = 0.75,
        found: tuple[Location, ...] | None = None,
    ) -> str:
        """Record an analysis with one result; return the UID of the result.

        The finding is doubtful from a probability of 0.25 on, and definite from 0.5 on.
        `found` are its locations. If `found` is None, a definite finding has one
        location with an arrow, and any other finding has no location.
        """
        uid = f"2.25.{1000 + int(received.id, 16)}"
        path = f"results/{received.id}-{uid}.dcm"
        (self.directory / path).write_bytes(b"a result")
        saliency = np.zeros((30, 20), np.float32)
        saliency[10:20, 5:15] = 1
        fracture = probability >= 0.5
        arrow = Arrow((100.0, 150.0), (20.0, 30.0)) if fracture else None
        places = locations(arrow) if found is None else found
        finding = Finding(probability, Thresholds(0.25, 0.5), saliency, places, MODEL)
        row = self.journal.load(received.id)
        assert row is not None
        self.journal.analyses.begin(received.id, row.run)
        answer = AnalysisResult(
            finding,
            picture_digest=received.id,
            identity_digest=received.id,
            results=[StoredResult("secondary_capture", "1.2", uid, path)],
            drawing=overlay_of(finding, (300, 200)),
        )
        assert self.journal.analyses.record_result(received.id, row.run, answer)
        return uid

    def record_outcome(
        self, received: ReceivedInstance, outcome: Outcome, name: str = "pacs"
    ) -> None:
        """Record an attempt to deliver the result of `answer`, with this outcome.

        `name` is the name of the destination.
        """
        run = next(
            each["run"]
            for each in self.runs(received.id)
            if each["destination"] == name
        )
        uid = f"2.25.{1000 + int(received.id, 16)}"
        self.journal.deliveries.begin(received.id, name, run)
        destination = next(d for d in self.settings.destinations if d.name == name)
        self.journal.delivery_outcomes.record(
            received.id, destination, run, {uid: outcome}
        )

    def refuse(self, received: ReceivedInstance, why: str = "This is a chest.") -> None:
        """Record that an instance was not analyzed, and why."""
        ended = Conclusion(InstanceState.NOT_ANALYZED, why)
        self.journal.analyses.begin(received.id, 1)
        self.journal.analyses.conclude(received.id, 1, ended)

    def fail(self, received: ReceivedInstance, why: str) -> None:
        """Record that the analysis of an instance failed, and why."""
        self.journal.analyses.begin(received.id, 1)
        ended = Conclusion(InstanceState.FAILED, why)
        self.journal.analyses.conclude(received.id, 1, ended)

    def runs(self, instance_id: str) -> list[dict[str, Any]]:
        query = delivery.select().where(delivery.c.instance_id == instance_id)
        with self.engine.connect() as connection:
            return [row._asdict() for row in connection.execute(query)]

    def act(
        self,
        path: str,
        token: str = ACTING,
        method: str = "POST",
        **body: Any,  # noqa: ANN401 - arguments of httpx
    ) -> httpx.Response:
        """Send a request to /api/v1, and return the response.

        By default, it is a POST request of an operator.
        """
        return self.ask(method, f"/api/v1{path}", bearing(token), **body)

    def get(self, path: str, shown: Mapping[str, str] | None = None) -> httpx.Response:
        """Send a GET request to /api/v1, by default as a viewer; return the response.

        `shown` are headers with other credentials, or no headers.
        """
        headers = bearing(LOOKING) if shown is None else shown
        return self.ask("GET", f"/api/v1{path}", headers)


@cache
def _phantom(number: int) -> Phantom:
    """Return the phantom with the seed `number`.

    It is cached, because drawing a phantom takes longer than recording it.
    """
    return draw_phantom(broken=True, rows=300, columns=200, seed=number)
