"""/api/v1: actions and their roles, failures, destinations, callers and uploads."""

import csv
import errno
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import NoReturn

import httpx
import pytest
from pydicom import DataElement, dcmread
from pydicom.config import IGNORE
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from api.v1 import node as node_routes
from dicom_node.audit.event import AuditEventType
from dicom_node.audit.folding import FURTHER_CALLERS
from dicom_node.dataset.file_meta import file_head
from dicom_node.decoder.confinement import Confinement
from dicom_node.demo.archive import start_archive
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.outcome import Outcome, Verdict
from dicom_node.storage.tables import audit, instance
from inference.phantom.long_bone import draw_phantom
from tests.support.http_client import ACTING, LOOKING, bearing, serve
from tests.support.review_site import PACS, REFUSED, STORED, Review

pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("common_decoders"),
]

STUDY = Tag("StudyInstanceUID")
GONE = "Send the instance again"
LISTED = """
[receiver]
allowed_callers = [{ae_title = "CR1", network = "10.1.0.0/16"}, "DX1"]
"""
TWO = PACS + PACS.replace('"pacs"', '"backup"')


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Review]:
    site = Review(tmp_path, more=TWO + LISTED)
    yield site
    site.close()
    site.engine.dispose()


def test_actions_require_an_operator(site: Review) -> None:
    received = site.receive(1)
    site.answer(received)
    acts = [
        f"/instances/{received.id}/analyze",
        f"/instances/{received.id}/send",
        "/failures/retry",
        "/destinations/pacs/echo",
        "/destinations/pacs/pause",
        "/destinations/pacs/resume",
        "/uploads",
    ]

    responses = [site.act(path, LOOKING) for path in acts]

    assert [each.status_code for each in responses] == [403] * len(acts)
    assert {each.headers["content-type"] for each in responses} == {
        "application/problem+json"
    }
    assert [each.type for each in site.events] == ["refused"] * len(acts)


def test_instance_is_analyzed_again_on_request(site: Review) -> None:
    received = site.receive(1)
    site.answer(received)

    response = site.act(f"/instances/{received.id}/analyze")

    assert response.status_code == 202
    assert site.get(f"/instances/{received.id}").json()["state"] == "received"
    assert site.events[0].type == "asked for again"
    assert site.act("/instances/nothing/analyze").status_code == 404


def test_results_are_sent_again_to_one_or_all(site: Review) -> None:
    received = site.receive(1)
    early = site.act(f"/instances/{received.id}/send")
    site.answer(received)
    for name in ("pacs", "backup"):
        site.record_outcome(received, STORED, name)

    one = site.act(f"/instances/{received.id}/send?destination=backup")
    after_one = states(site, received.id)
    every = site.act(f"/instances/{received.id}/send")

    assert early.status_code == 409
    assert (one.status_code, every.status_code) == (202, 202)
    assert after_one == {"backup": "queued", "pacs": "delivered"}
    assert states(site, received.id) == {"backup": "queued", "pacs": "queued"}
    wrong = site.act(f"/instances/{received.id}/send?destination=moon")
    assert wrong.status_code == 404
    assert "pacs, backup" in wrong.json()["detail"]


def test_nothing_is_sent_if_there_is_no_result_that_the_destination_wants(
    tmp_path: Path,
) -> None:
    reports_only = TWO + 'results = ["structured_report"]\n'
    site = Review(tmp_path, more=reports_only)
    waiting, refused, unwanted = (site.receive(number) for number in (1, 2, 3))
    site.refuse(refused)
    site.answer(unwanted)  # with a Secondary Capture only

    responses = [
        site.act(f"/instances/{waiting.id}/send"),
        site.act(f"/instances/{refused.id}/send"),
        site.act(f"/instances/{unwanted.id}/send?destination=backup"),
    ]

    site.close()
    site.engine.dispose()
    for response in responses:
        assert response.status_code == 409
        assert "no results, or the destination wants" in response.json()["detail"]
    assert site.events == []


def states(site: Review, instance_id: str) -> dict[str, str]:
    return {each["destination"]: each["state"] for each in site.runs(instance_id)}


def test_actions_are_refused_with_410_after_the_files_are_removed(site: Review) -> None:
    received = site.receive(1)
    site.answer(received)
    for name in ("pacs", "backup"):
        site.record_outcome(received, REFUSED, name)
    with site.engine.begin() as connection:
        connection.execute(instance.update().values(files_removed_at=1.0))

    for action in ("analyze", "send"):
        response = site.act(f"/instances/{received.id}/{action}")
        assert response.status_code == 410
        assert GONE in response.json()["detail"]
    assert site.get("/failures").json() == []


def test_text_in_place_of_a_destination_reaches_no_log_and_no_audit_trail(
    site: Review, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    caplog.set_level("WARNING", "httpx")  # the client logs the query
    response = site.act("/failures/retry", params={"destination": "Doe^Jane"})

    assert response.json()["asked"] == 0
    assert [each.about for each in site.events] == ["0 failures"]
    assert "Doe" not in caplog.text


def test_failures_are_grouped_and_retried_one_group_or_all(site: Review) -> None:
    for number in (1, 2):
        received = site.receive(number)
        site.answer(received)
        site.record_outcome(received, REFUSED, "pacs")
        site.record_outcome(received, STORED, "backup")
    broken = site.receive(3)
    site.fail(broken, "Pixel Data is damaged.")

    groups = site.get("/failures").json()
    retried = site.act(
        "/failures/retry", params={"destination": "pacs", "reason": REFUSED.comment}
    )
    left = site.get("/failures").json()
    listed = site.get("/failures/instances?destination=").json()
    every = site.act("/failures/retry")

    assert [(g["destination"], g["reason"], g["count"]) for g in groups] == [
        ("pacs", REFUSED.comment, 2),
        ("", "Pixel Data is damaged.", 1),
    ]
    assert retried.json() == {"asked": 2, "gone": 0, "left": 0}
    assert [group["destination"] for group in left] == [""]
    assert [line["id"] for line in listed] == [broken.id]
    assert every.json() == {"asked": 1, "gone": 0, "left": 0}
    assert site.get("/failures").json() == []
    assert site.get("/failures/instances").json() == []
    again = site.get("/instances?state=received").json()["instances"]
    assert [line["id"] for line in again] == [broken.id]


def test_number_of_retries_per_request_is_limited(
    site: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.v1.failures.MOST_RETRIES", 2)
    for number in (1, 2, 3):
        site.fail(site.receive(number), "damaged")

    first = site.act("/failures/retry?destination=").json()
    second = site.act("/failures/retry?destination=").json()

    assert first == {"asked": 2, "gone": 0, "left": 1}
    assert second == {"asked": 1, "gone": 0, "left": 0}


def test_waiting_delivery_counts_once_if_everything_is_retried_in_several_requests(
    site: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.v1.failures.MOST_RETRIES", 1)
    for number in (1, 2):
        site.fail(site.receive(number), "damaged")
    waiting = site.receive(3)
    site.answer(waiting)
    site.record_outcome(waiting, Outcome(Verdict.RETRY, None, "refuses"), "pacs")

    first = site.act("/failures/retry").json()
    second = site.act("/failures/retry").json()

    assert first == {"asked": 2, "gone": 0, "left": 1}
    assert second == {"asked": 1, "gone": 0, "left": 0}
    assert [each.about for each in site.events] == [
        "2 failures for any destination",
        "1 failures for any destination",
    ]


def test_destinations_have_their_state_and_can_be_paused(site: Review) -> None:
    one, two = site.receive(1), site.receive(2)
    for received in (one, two):
        site.answer(received)
    site.record_outcome(one, STORED, "pacs")
    site.record_outcome(one, REFUSED, "backup")

    assert site.act("/destinations/backup/pause").status_code == 204
    pacs, backup = site.get("/destinations").json()
    assert site.act("/destinations/backup/resume").status_code == 204
    resumed = site.get("/destinations").json()[1]

    assert (pacs["name"], pacs["address"]) == ("pacs", "PACS@127.0.0.1:1")
    assert (pacs["type"], pacs["connection_test"]) == ("dicom", "echo")
    assert (pacs["waiting"], pacs["failed"], pacs["paused"]) == (1, 0, False)
    assert pacs["last_success"] is not None
    assert pacs["oldest"] is not None
    assert (backup["waiting"], backup["failed"], backup["paused"]) == (1, 1, True)
    assert backup["last_success"] is None
    assert not resumed["paused"]
    audited = [(each.type, each.about) for each in site.events]
    assert audited == [("paused", "backup"), ("resumed", "backup")]
    assert site.act("/destinations/moon/pause").status_code == 404


def test_paused_delivery_has_no_next_attempt_until_it_is_resumed(
    site: Review,
) -> None:
    received = site.receive(1)
    site.answer(received)

    def next_attempts() -> dict[str, bool]:
        deliveries = site.get(f"/instances/{received.id}").json()["deliveries"]
        return {each["destination"]: each["next_at"] is not None for each in deliveries}

    site.journal.deliveries.pause("pacs")
    assert site.journal.deliveries.begin(received.id, "pacs", 1) is None
    paused = next_attempts()
    site.journal.deliveries.resume("pacs")

    assert paused == {"pacs": False, "backup": True}
    assert next_attempts() == {"pacs": True, "backup": True}


def test_waiting_deliveries_have_their_reason_and_can_be_tried_at_once(
    site: Review,
) -> None:
    refuses = "PACS at 127.0.0.1:1 refuses the connection"
    ids = []
    for number in range(3):
        received = site.receive(number)
        site.answer(received)
        site.record_outcome(received, Outcome(Verdict.RETRY, None, refuses), "pacs")
        site.record_outcome(received, STORED, "backup")
        ids.append(received.id)

    pacs, backup = site.get("/destinations").json()
    node = site.get("/node").json()
    lines = site.get("/instances").json()["instances"]
    (group,) = site.get("/failures").json()
    listed = site.get("/failures/instances?destination=pacs&waiting=true").json()
    retry = "/failures/retry?destination=pacs&waiting=true"
    viewer = site.act(retry, token=LOOKING)
    tried = site.act(retry)

    (outage,) = pacs["outages"]
    assert (outage["peer"], outage["reason"]) == ("pacs", refuses)
    assert outage["since"] <= outage["last_attempt"] < outage["next_attempt"]
    assert backup["outages"] == []
    assert node["destinations"]["backup"] == "ok"
    assert refuses in node["destinations"]["pacs"]
    assert {line["reason"] for line in lines} == {f"pacs: {refuses}"}
    assert {line["state"] for line in lines} == {"delivering"}
    assert (group["waiting"], group["count"], group["reason"]) == (True, 3, refuses)
    assert group["reasons"] == [{"reason": refuses, "objects": ["Secondary Capture"]}]
    assert {line["id"] for line in listed} == set(ids)
    assert viewer.status_code == 403
    assert tried.json() == {"asked": 3, "gone": 0, "left": 0}
    for each in ids:
        (now,) = [run for run in site.runs(each) if run["destination"] == "pacs"]
        assert now["next_at"] <= time.time()


def test_destination_has_its_last_failure_until_a_delivery_succeeds(
    site: Review,
) -> None:
    taken, refused, later = (site.receive(number) for number in range(3))
    for received in (taken, refused, later):
        site.answer(received)
        site.record_outcome(received, STORED, "backup")
    site.record_outcome(taken, STORED, "pacs")
    before, _ = site.get("/destinations").json()
    site.record_outcome(refused, REFUSED, "pacs")
    failing, backup = site.get("/destinations").json()
    node = site.get("/node").json()
    site.record_outcome(later, STORED, "pacs")
    after, _ = site.get("/destinations").json()

    assert before["last_failure"] is None
    assert failing["last_failure"]["reason"] == REFUSED.comment
    assert failing["last_failure"]["at"] >= failing["last_success"]
    assert failing["outages"] == []  # the destination responds
    assert backup["last_failure"] is None
    shown = node["destinations"]["pacs"]
    assert shown.startswith("the last delivery failed 0 s ago: ")
    assert after["last_failure"] is None
    assert after["failed"] == 1


def test_connection_test_is_outdated_after_a_failed_delivery(tmp_path: Path) -> None:
    archive = start_archive(tmp_path / "archive")
    alive = PACS.replace("port = 1", f"port = {archive.port}")
    site = Review(tmp_path, more=alive.replace('"PACS"', '"ARCHIVE"'))
    try:
        site.act("/destinations/pacs/echo")
        (before,) = site.get("/destinations").json()
        received = site.receive()
        site.answer(received)
        site.record_outcome(received, Outcome(Verdict.RETRY, None, "no answer"), "pacs")
        (after,) = site.get("/destinations").json()
        site.act("/destinations/pacs/echo")
        (again,) = site.get("/destinations").json()
    finally:
        archive.stop()
        site.close()
        site.engine.dispose()

    assert [each["outdated"] for each in before["echoes"]] == [False]
    assert [each["outdated"] for each in after["echoes"]] == [True]
    assert after["echoes"][0]["alive"]
    assert [each["outdated"] for each in again["echoes"]] == [False, True]


def test_destination_is_tested_by_c_echo(tmp_path: Path) -> None:
    with ExitStack() as stack:
        archive = start_archive(tmp_path / "archive")
        stack.callback(archive.stop)
        alive = PACS.replace("port = 1", f"port = {archive.port}")
        alive = alive.replace('"PACS"', '"ARCHIVE"')
        dead = PACS.replace('"pacs"', '"dead"')
        site = Review(tmp_path, more=alive + dead)

        (first,) = site.act("/destinations/pacs/echo").json()
        (dead_one,) = site.act("/destinations/dead/echo").json()
        history = site.act("/destinations/pacs/echo").json()

    assert (first["alive"], first["who"], first["comment"]) == (True, "acting", "")
    assert not dead_one["alive"]
    assert "dead" in dead_one["comment"]
    assert len(history) == 2
    assert site.get("/destinations").json()[0]["echoes"] == history
    audited = [(each.type, each.about) for each in site.events]
    assert audited == [("connection tested", each) for each in ("pacs", "dead", "pacs")]
    site.close()
    site.engine.dispose()


def test_callers_are_listed_with_the_setting_to_change(site: Review) -> None:
    site.receive(1)
    events = (
        (AuditEventType.OPENED, "ROOM1", ""),
        (AuditEventType.OPENED, "ROOM1", ""),
        (AuditEventType.REJECTED, "STRANGER", "calling AE title not recognized"),
        (AuditEventType.REJECTED, "", "no valid A-ASSOCIATE-RQ: HTTP"),
    )
    rows = [
        {"at": time.time(), "role": "receiver", "what": kind, "who": title}
        | {"address": "10.0.0.9", "about": about, "times": 1}
        for kind, title, about in events
    ]
    with site.engine.begin() as connection:
        connection.execute(audit.insert(), rows)

    called = {each["ae_title"]: each for each in site.get("/callers").json()}

    assert (called["ROOM1"]["admitted"], called["ROOM1"]["times"]) == (True, 2)
    assert not called["STRANGER"]["admitted"]
    assert called["STRANGER"]["mend"].startswith("Add it to allowed_callers")
    assert called[""]["mend"].startswith("It does not speak DICOM on this port.")
    (sent,) = site.get("/modalities").json()
    assert (sent["sender"], sent["modality"], sent["count"]) == ("ROOM1", "DX", 1)


def test_rejected_callers_do_not_displace_accepted_callers(site: Review) -> None:
    row = {"role": "receiver", "address": "10.0.0.9", "times": 1}
    rejection = {
        "what": AuditEventType.REJECTED,
        "about": "calling AE title not recognized",
    }
    now = time.time()
    rows = [row | rejection | {"who": f"X{n}", "at": now} for n in range(300)]
    rows += [
        row
        | {"what": AuditEventType.OPENED, "about": "", "who": "ROOM1", "at": now - 60}
    ]
    folded = {"who": FURTHER_CALLERS, "address": "2001:db8::/64", "at": now}
    with site.engine.begin() as connection:
        connection.execute(audit.insert(), [*rows, row | rejection | folded])

    called = {each["ae_title"]: each for each in site.get("/callers").json()}

    assert called["ROOM1"]["admitted"]
    mend = called[FURTHER_CALLERS]["mend"]
    assert mend.startswith("Add it to allowed_callers")


def test_listed_caller_from_another_network_gets_advice_about_its_network(
    site: Review,
) -> None:
    row = {
        "at": time.time(),
        "role": "receiver",
        "what": AuditEventType.REJECTED,
        "times": 1,
    }
    rejection = {"about": "calling AE title not recognized", "address": "10.2.0.9"}
    rows = [row | rejection | {"who": title} for title in ("CR1", "DX1", "MG1")]
    with site.engine.begin() as connection:
        connection.execute(audit.insert(), rows)

    mends = {each["ae_title"]: each["mend"] for each in site.get("/callers").json()}

    assert mends["CR1"] == (
        "allowed_callers under [receiver] lists it for 10.1.0.0/16 only. "
        "Add its address if it may call from there."
    )
    assert mends["DX1"] == "allowed_callers now lists it."
    assert mends["MG1"].startswith("Add it to allowed_callers")


def test_figures_count_the_instances_of_a_period(site: Review) -> None:
    for number, probability in ((1, 0.97), (2, 0.5), (3, 0.02)):
        received = site.receive(number)
        site.answer(received, probability)
    site.refuse(site.receive(4))
    site.fail(site.receive(5), "damaged")
    site.receive(6)

    day = site.get("/figures?period=day").json()

    assert len(day["intervals"]) == 24
    total = {
        key: sum(each[key] for each in day["intervals"])
        for key in ("received", "reported", "negative", "not_analyzed", "failed")
    }
    assert total == {
        "received": 6,
        "reported": 2,
        "negative": 1,
        "not_analyzed": 1,
        "failed": 1,
    }
    scores = {index: count for index, count in enumerate(day["scores"]) if count}
    assert scores == {0: 1, 10: 1, 19: 1}
    assert day["turnaround"] == {}
    for period in ("week", "month"):
        again = site.get(f"/figures?period={period}").json()
        assert sum(each["received"] for each in again["intervals"]) == 6
    node = site.get("/node").json()
    assert node["states"] == {
        "delivering": 3,
        "failed": 1,
        "not_analyzed": 1,
        "received": 1,
    }
    assert node["free_bytes"] > 0


def test_readers_give_and_withdraw_feedback(site: Review) -> None:
    received = site.receive(1)
    path = f"/instances/{received.id}/feedback"
    early = site.act(path, LOOKING, "PUT", json={"verdict": "agree"})
    site.answer(received)

    site.act(path, ACTING, "PUT", json={"verdict": "agree"})
    given = site.act(
        path, LOOKING, "PUT", json={"verdict": "disagree", "place": [12.5, 30]}
    )
    wrong = site.act(path, LOOKING, "PUT", json={"verdict": "maybe"})

    assert early.status_code == 409
    assert wrong.status_code == 400
    assert [(o["who"], o["verdict"], o["place"]) for o in given.json()] == [
        ("looking", "disagree", [12.5, 30.0]),
        ("acting", "agree", None),
    ]
    export = site.get("/feedback.csv")
    lines = list(csv.DictReader(StringIO(export.text)))
    assert [line["verdict"] for line in lines] == ["agree", "disagree"]
    assert lines[1]["place_column"] == "12.5"
    assert "Doe" not in export.text
    withdrawn = site.act(path, LOOKING, "DELETE").json()
    assert [each["who"] for each in withdrawn] == ["acting"]


def test_uploaded_file_is_recorded_as_an_instance(site: Review, tmp_path: Path) -> None:
    uid, path = written(tmp_path / "phantom.dcm")

    first = upload(site, path.read_bytes())
    second = upload(site, path.read_bytes())

    assert first.status_code == 202
    assert second.json() == first.json()  # the same bytes are already stored
    known = site.get(f"/instances/{first.json()['id']}").json()
    assert known["sop_instance_uid"] == uid
    assert (known["sender"], known["state"]) == ("UPLOAD", "received")
    assert known["patient"]["name"].startswith("PHANTOM")
    picture = site.get(f"/instances/{first.json()['id']}/picture")
    assert picture.status_code == 200
    assert len(list((site.directory / "spool").glob("*.dcm"))) == 1


def written(path: Path) -> tuple[str, Path]:
    dataset = phantom_dataset(draw_phantom(broken=True, rows=300, columns=200))
    dataset.save_as(path, enforce_file_format=True)
    return str(dataset.SOPInstanceUID), path


def upload(site: Review, content: bytes) -> httpx.Response:
    return site.act("/uploads", files={"file": ("Doe^Jane.dcm", content)})


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"", id="no-preamble-and-no-file-meta"),
        pytest.param(bytes(128) + b"DICM", id="no-file-meta"),
        pytest.param(file_head("1.2", "1.2.3", ExplicitVRLittleEndian), id="uids"),
        pytest.param(file_head("1.2", "1.2.3", ImplicitVRLittleEndian), id="syntax"),
        pytest.param(
            file_head("1.2", "1.2.3", ExplicitVRLittleEndian)[132:], id="no-preamble"
        ),
    ],
)
def test_upload_with_missing_or_wrong_file_meta_is_accepted(
    site: Review, tmp_path: Path, head: bytes
) -> None:
    uid, path = written(tmp_path / "phantom.dcm")
    content = path.read_bytes()
    dataset = content[144 + int.from_bytes(content[140:144], "little") :]

    response = upload(site, head + dataset)

    assert response.status_code == 202
    known = site.get(f"/instances/{response.json()['id']}").json()
    assert known["sop_instance_uid"] == uid
    assert "assumption" in [each["kind"] for each in known["events"]]
    (kept,) = (site.directory / "spool").glob("*.dcm")
    sop_class = DigitalXRayImageStorageForPresentation
    assert (
        kept.read_bytes() == file_head(sop_class, uid, ExplicitVRLittleEndian) + dataset
    )
    assert site.get(f"/instances/{response.json()['id']}/picture").status_code == 200


def test_studies_with_the_same_first_64_characters_of_their_uid_are_separate(
    site: Review, tmp_path: Path
) -> None:
    studies = ["1.2." + "9" * 60 + end for end in ("1", "2")]
    _, path = written(tmp_path / "phantom.dcm")
    dataset = dcmread(path)
    for study, name in zip(studies, ("Weber^Karl", "Maier^Eva"), strict=True):
        dataset.PatientName, dataset.SOPInstanceUID = name, generate_uid()
        uid = UID(study, IGNORE)
        dataset.add(DataElement(STUDY, "UI", uid, validation_mode=IGNORE))
        dataset.save_as(path, enforce_file_format=True)
        assert upload(site, path.read_bytes()).json()["study_instance_uid"] == study

    responses = [site.get(f"/studies/{study}").json() for study in studies]

    names = [[each["patient"]["name"] for each in a["instances"]] for a in responses]
    assert names == [["Weber, Karl"], ["Maier, Eva"]]
    assert site.get(f"/studies/{studies[0][:64]}").status_code == 404


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda _: b"no DICOM at all", "DICOM"),
        (lambda content: content[:-1000], "119000 bytes of 120000"),
        (
            lambda content: content.replace(b".1.1.1.1\0", b".1.1.6.1\0"),
            "is not accepted. Send a radiograph",
        ),
    ],
)
def test_upload_that_is_no_radiograph_is_refused_with_a_reason(
    site: Review, tmp_path: Path, damage: object, reason: str
) -> None:
    assert callable(damage)
    _, path = written(tmp_path / "phantom.dcm")

    response = upload(site, damage(path.read_bytes()))

    assert response.status_code == 422
    assert reason in response.json()["detail"]
    assert "Doe" not in response.text
    assert list((site.directory / "spool").iterdir()) == []
    assert site.get("/instances").json()["total"] == 0


def test_changes_are_streamed_as_they_happen(site: Review) -> None:
    with ExitStack() as stack:
        port = serve(site.app, stack)
        ended = False
        site.app.state.ending = lambda: ended
        client = stack.enter_context(httpx.Client(timeout=20))
        url = f"http://127.0.0.1:{port}/api/v1/changes"
        with client.stream("GET", url, headers=bearing(LOOKING)) as response:
            lines = response.iter_lines()
            assert next(lines) == "retry: 1000"
            assert next(lines) == "event: begun"
            assert next(lines) == "data: {}"
            received = site.receive(1)
            began = time.monotonic()
            data = next(line for line in lines if line.startswith("data:"))
            seconds = time.monotonic() - began
            site.answer(received)
            more = next(line for line in lines if line.startswith("data:"))
            ended = True
            rest = [line for line in lines if line]

    change = json.loads(data.removeprefix("data:"))
    assert change == {"instances": [received.id]}
    assert json.loads(more.removeprefix("data:")) == change
    assert seconds < 1.5
    assert rest == []
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"  # for nginx


def test_node_reports_the_confinement_of_the_decoding_process(
    site: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    partly = Confinement(landlock=0, seccomp=True)
    monkeypatch.setattr(node_routes, "offered", lambda: partly)

    node = site.get("/node").json()

    assert node["decoding"] == "no Landlock, seccomp"
    assert node["confined"] is False


def test_node_reports_its_state_if_the_disk_fails(
    site: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> NoReturn:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(shutil, "disk_usage", fail)

    node = site.get("/node").json()

    assert (node["free_bytes"], node["total_bytes"]) == (None, None)
    assert node["destinations"]["pacs"] == "ok"
