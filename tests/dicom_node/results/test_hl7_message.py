"""The HL7 message of a result, also as hl7apy and python-hl7 read it."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_node.decoder.client import DecoderProcess
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import AnalysisError
from dicom_node.results.encode import encode_file, encode_notice
from dicom_node.results.encoding import ResultObject
from dicom_node.results.hl7_encoding import components, escaped
from dicom_node.results.hl7_message import OrderResult, oru_message
from dicom_node.results.hl7_observations import ImageAnswer
from dicom_node.results.hl7_orders import MOST_ORDERS, read_orders
from dicom_node.results.hl7_result import control_id_of
from dicom_node.results.hl7_values import read_image
from dicom_node.results.source import read_source
from inference.finding import Arrow, Location, OperatingPoint
from tests.support.hl7_messages import (
    FINDING,
    MODEL,
    OPTIONS,
    PHANTOM,
    made,
    received,
    segments,
    unescaped,
    written,
)
from tests.support.mutation_runs import originals
from tests.support.mutations import mutations

pytestmark = pytest.mark.unit

JAPANESE, ARABIC = "Yamada^Tarou=山田^太郎=やまだ^たろう", "قباني^لنزار"
SCORE_TEXT = "^Probability of a fracture at this location^L"
FRACTURE = "125605004^Fracture of bone^SCT"
SEVERAL = replace(
    FINDING,
    locations=(
        Location(Arrow((40, 90), (10, 60)), 0.81236, OperatingPoint.DEFINITE),
        Location(Arrow((9.6, 5), (30, 30)), 0.5, OperatingPoint.DOUBTFUL),
    ),
)


def text(result: ResultObject) -> str:
    return result.content.decode()


def observations(message: str) -> dict[str, list[str]]:
    """Return the OBX segments by the code in OBX-3."""
    return {each[3].partition("^")[0]: each for each in segments(message, "OBX")}


def qualifier() -> Dataset:
    facility = Dataset()
    facility.LocalNamespaceEntityID = "CLINIC"
    item = Dataset()
    item.UniversalEntityID = "1.2.840.99999"
    item.UniversalEntityIDType = "ISO"
    item.IdentifierTypeCode = "MR"
    item.AssigningFacilitySequence = [facility]
    return item


def order() -> Dataset:
    issuer = Dataset()
    issuer.LocalNamespaceEntityID = "ORDERS"
    procedure = Dataset()
    procedure.CodeValue = "XR0042"
    procedure.CodingSchemeDesignator = "99HOSP"
    procedure.CodeMeaning = "Lower leg, two views"
    item = Dataset()
    item.PlacerOrderNumberImagingServiceRequest = "P-17"
    item.OrderPlacerIdentifierSequence = [issuer]
    item.FillerOrderNumberImagingServiceRequest = "F-18"
    item.RequestedProcedureID = "RP-19"
    item.RequestedProcedureCodeSequence = [procedure]
    return item


@pytest.mark.parametrize("finding", [FINDING, SEVERAL, None])
def test_the_message_is_valid_hl7(finding: object, tmp_path: Path) -> None:
    parser = pytest.importorskip("hl7apy.parser", reason="hl7apy is not installed")
    values = {
        "IssuerOfPatientIDQualifiersSequence": [qualifier()],
        "RequestAttributesSequence": [order()],
        "ReferringPhysicianName": "Referring^Rita",
        "PatientName": JAPANESE,
    }
    result = made(tmp_path, values, finding=finding)  # type: ignore[arg-type]

    message = parser.parse_message(written(result), find_groups=True)

    assert message.version == "2.5.1"
    assert message.validate()
    group = message.oru_r01_patient_result
    assert group.oru_r01_patient.pid.pid_5[1].xpn_1.value == "山田"
    assert len(group.oru_r01_order_observation.oru_r01_observation) == len(
        segments(text(result), "OBX")
    )


def test_each_of_several_locations_has_a_point_and_a_score(tmp_path: Path) -> None:
    result = made(tmp_path, finding=SEVERAL)

    displayed = "of the image as displayed (150 columns, 200 rows)"
    arrow, score = "ARROW^Point to which the arrow points^L", "LOCATION_SCORE"
    of_image = [each for each in segments(text(result), "OBX") if each[4]]
    found = [
        (each[3].removesuffix(SCORE_TEXT), each[4], each[5], each[6])
        for each in of_image
        if each[3].startswith(("122157", score, "ARROW"))
    ]
    units = "1^no units^UCUM"
    assert found == [
        ("122157^Probability^DCM", "1", "0.9300", units),
        (arrow, "1.1", f"column 40, row 90 {displayed}", ""),
        (score, "1.1", "0.8124", units),
        (arrow, "1.2", f"column 10, row 5 {displayed}", ""),
        (score, "1.2", "0.5000", units),
    ]
    names = [each[3] for each in of_image]
    assert names.index("363698007^Finding Site^SCT") == 7  # after the locations


@pytest.mark.parametrize(
    ("score", "scores"), [(0.93, []), (0.93001, []), (0.62, [["1", "0.6200"]])]
)
def test_only_location_has_the_sub_id_of_the_image_and_a_score_if_it_differs(
    tmp_path: Path, score: float, scores: list[list[str]]
) -> None:
    (location,) = FINDING.locations
    finding = replace(FINDING, locations=(replace(location, score=score),))

    found = segments(text(made(tmp_path, finding=finding)), "OBX")

    numbers = {
        code: [each[4:6] for each in found if each[3].startswith(code)]
        for code in ("122157", "LOCATION_SCORE")
    }
    assert numbers == {"122157": [["1", "0.9300"]], "LOCATION_SCORE": scores}
    assert [each[4] for each in found if "ARROW" in each[3]] == ["1"]


def test_a_finding_is_coded(tmp_path: Path) -> None:
    result = made(tmp_path)
    found = observations(text(result))
    uid, study = found["SOP_INSTANCE_UID"], found["110180"]

    assert found["125605004"][2:9] == [
        *("CE", FRACTURE, "1", "52101004^Present^SCT", "", "", "A")
    ]
    assert found["121106"][5] == "Fracture: definite, probability of a fracture 93.0%"
    assert found["122157"][2:7] == [
        *("NM", "122157^Probability^DCM", "1", "0.9300", "1^no units^UCUM")
    ]
    assert found["ARROW"][5].startswith("column 40, row 90 of the image")
    assert found["363698007"][5] == "30021000^Lower leg^SCT"
    assert found["111027"][5] == "7771000^Left^SCT"
    assert found["111031"][5] == "AP"
    assert found["111001"][5] == "phantom-resnet18"
    assert found["111003"][5] == "0.1.0"
    assert found["NOTICE"][5] == (
        "AI result, not for diagnostic use. For research only."
    )
    assert uid[4] == "1"
    assert study[4] == ""
    assert {each[11] for each in found.values()} == {"P"}


@pytest.mark.parametrize(
    ("probability", "answer", "flag"),
    [
        (0.1, "272519000^Absent^SCT", "N"),
        (0.6, "415684004^Suspected^SCT", "A"),
        (0.8, "52101004^Present^SCT", "A"),
    ],
)
def test_the_abnormal_flag_follows_the_answer(
    probability: float, answer: str, flag: str, tmp_path: Path
) -> None:
    result = made(tmp_path, finding=replace(FINDING, probability=probability))

    found = observations(text(result))["125605004"]

    assert (found[5], found[8]) == (answer, flag)


def test_an_image_without_a_result_has_the_reason_and_no_answer(
    tmp_path: Path,
) -> None:
    found = observations(text(made(tmp_path, finding=None)))

    assert (found["125605004"][5], found["125605004"][8]) == ("", "")
    assert found["125605004"][11] == "X"
    assert found["121106"][5] == "Not analyzed: The study is too old."
    assert "122157" not in found


def test_the_patient_has_the_assigning_authority(tmp_path: Path) -> None:
    values = {
        "PatientID": "12345",
        "IssuerOfPatientID": "HOSP",
        "IssuerOfPatientIDQualifiersSequence": [qualifier()],
        "PatientName": "Doe^Jane^Mary^Dr^Jr",
        "PatientSex": "F",
    }
    (pid,) = segments(text(made(tmp_path, values)), "PID")

    assert pid[3] == "12345^^^HOSP&1.2.840.99999&ISO^MR^CLINIC"
    assert pid[5] == "Doe^Jane^Mary^Jr^Dr^^^A"
    assert pid[7:9] == ["19600101", "F"]


def test_the_order_is_from_the_request_attributes(tmp_path: Path) -> None:
    values = {"RequestAttributesSequence": [order()], "AccessionNumber": "A-1"}
    (obr,) = segments(text(made(tmp_path, values)), "OBR")

    assert obr[2:5] == ["P-17^ORDERS", "F-18", "XR0042^Lower leg, two views^99HOSP"]
    assert obr[18:20] == ["A-1", "RP-19"]
    assert obr[24] == "RAD"


def numbered(accession: str) -> Dataset:
    item = Dataset()
    item.AccessionNumber = accession
    return item


def test_an_image_is_reported_under_each_of_its_orders(tmp_path: Path) -> None:
    step = Dataset()
    step.ScheduledProcedureStepID = "S-1"
    items = [step, *map(numbered, ("A-1", "A-2", "A-1"))]
    message = text(made(tmp_path, {"RequestAttributesSequence": items}))

    orders = segments(message, "OBR")
    assert [each[1:4] for each in orders] == [["1", "", "A-1"], ["2", "", "A-2"]]
    answers = [each[4:6] for each in segments(message, "OBX") if each[3] == FRACTURE]
    assert answers == [["1", "52101004^Present^SCT"]] * 2


def test_steps_of_one_order_are_one_order(tmp_path: Path) -> None:
    steps = [Dataset(), Dataset()]
    steps[1].RequestedProcedureID = "RP-2"
    for values in ({}, {"AccessionNumber": "A-1"}):
        message = text(made(tmp_path, {"RequestAttributesSequence": steps} | values))
        (obr,) = segments(message, "OBR")
        assert obr[18] == values.get("AccessionNumber", "")


def test_items_of_one_accession_number_are_one_order_with_all_numbers(
    tmp_path: Path,
) -> None:
    placer, filler = numbered("A-1"), numbered("A-1")
    placer.PlacerOrderNumberImagingServiceRequest = "P-1"
    filler.FillerOrderNumberImagingServiceRequest = "F-1"
    filler.RequestedProcedureID = "RP-1"
    items = [numbered("A-2"), numbered("A-1"), placer, filler]
    message = text(made(tmp_path, {"RequestAttributesSequence": items}))

    orders = segments(message, "OBR")
    assert [each[2:4] + each[18:20] for each in orders] == [
        ["", "A-2", "A-2", ""],
        ["P-1", "F-1", "A-1", "RP-1"],
    ]


def test_number_of_orders_is_limited(tmp_path: Path) -> None:
    items = [numbered(f"A-{number}") for number in range(MOST_ORDERS + 1)]
    message = text(made(tmp_path, {"RequestAttributesSequence": items}))

    assert len(segments(message, "OBR")) == MOST_ORDERS


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"AccessionNumber": "A-1"}, ["", "A-1", "^Constancy test"]),
        ({"StudyDescription": None}, ["", "", "43468-8^XR unspecified body region^LN"]),
        (
            {
                "PlacerOrderNumberImagingServiceRequest": "P",
                "FillerOrderNumberImagingServiceRequest": "F",
            },
            ["P", "F", "^Constancy test"],
        ),
    ],
)
def test_without_an_order_the_study_identifies_the_report(
    values: dict[str, object], expected: list[str], tmp_path: Path
) -> None:
    (obr,) = segments(text(made(tmp_path, values)), "OBR")

    assert obr[2:5] == expected


def test_a_later_analysis_is_a_correction(tmp_path: Path) -> None:
    message = text(made(tmp_path, is_correction=True))
    (obr,) = segments(message, "OBR")

    assert obr[25] == "C"
    assert {each[11] for each in segments(message, "OBX")} == {"C"}
    assert segments(text(made(tmp_path)), "OBR")[0][25] == "P"


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 192", JAPANESE),
        ("ISO_IR 127", ARABIC),
        ("ISO_IR 100", "Müller^Zoë"),
        ("ISO_IR 192", "A\\F\\|B&C~^Jane"),
        ("ISO_IR 192", "\\H\\X0D\\^\u3000x"),
    ],
)
def test_names_reach_a_foreign_parser_unchanged(
    character_set: str, name: str, tmp_path: Path
) -> None:
    hl7 = pytest.importorskip("hl7", reason="python-hl7 is not installed")
    values = {"SpecificCharacterSet": character_set, "PatientName": name}

    message = hl7.parse(written(made(tmp_path, values)))

    read = [
        "^".join(message.unescape(str(each)) for each in repetition[:2])
        for repetition in message.segment("PID")(5)
    ]
    assert "=".join(read) == name


@given(st.text())
def test_an_escaped_text_has_no_delimiters_and_no_control_characters(
    value: str,
) -> None:
    assume(value.strip(" ") != '""')
    encoded = escaped(value)

    assert not set(encoded) & {"|", "^", "~", "&", "\r", "\n", "\x0b", "\x1c"}
    assert unescaped(encoded) == value


def test_no_field_has_the_null_value(tmp_path: Path) -> None:
    null = '""'
    item = order()
    item.PlacerOrderNumberImagingServiceRequest = null
    item.FillerOrderNumberImagingServiceRequest = null
    item.RequestedProcedureID = f" {null} "
    item.RequestedProcedureCodeSequence[0].CodeMeaning = null
    message = text(
        made(
            tmp_path,
            {
                "PatientID": null,
                "PatientName": f"{null}^{null}={null}",
                "ReferringPhysicianName": f"{null}^Rita",
                "IssuerOfPatientID": null,
                "AccessionNumber": "A-1",
                "RequestAttributesSequence": [item],
            },
        )
    )

    assert null not in message
    (pid,), (obr,) = segments(message, "PID"), segments(message, "OBR")
    assert (pid[3], pid[5]) == ("", "")
    assert obr[2:5] == ["", "A-1", "XR0042^^99HOSP"]
    assert obr[16:20] == ["^^Rita" + "^" * 12 + "A", "", "A-1", ""]


@pytest.mark.parametrize("value", ['""', ' "" '])
def test_null_value_is_written_as_an_empty_component(value: str) -> None:
    assert escaped(value) == ""
    assert components("A", value, "B") == "A^^B"
    assert escaped('say ""') == 'say ""'


def test_equal_results_have_equal_messages(tmp_path: Path) -> None:
    dataset = phantom_dataset(PHANTOM)
    uids = {each: dataset[each].value for each in ("SOPInstanceUID",)}
    uids |= {"StudyInstanceUID": "1.2.3", "StudyTime": "101500"}
    uids |= {"AcquisitionTime": "101500"}
    first, again = (made(tmp_path, uids) for _ in range(2))
    other = made(tmp_path, uids | {"PatientID": "other"})
    (msh,) = segments(text(first), "MSH")

    assert first == again
    assert other.sop_instance_uid != first.sop_instance_uid
    assert msh[9] == control_id_of(first.sop_instance_uid)
    assert len(msh[9]) == 20
    assert segments(text(other), "MSH")[0][9] != msh[9]
    assert msh[6] == "20260304050607+0000"


def test_a_message_reports_several_images_in_groups(tmp_path: Path) -> None:
    source = read_source(received(phantom_dataset(PHANTOM), tmp_path))
    image = replace(read_image(source), side=Code("24028007", "SCT", "Right"))
    answers = [
        ImageAnswer(image, OperatingPoint.NONE, "No Fracture", 0.01),
        ImageAnswer(
            replace(image, sop_instance_uid="1.2.9"), None, "Failed: broken", group="2"
        ),
    ]
    order = OrderResult(read_orders(source)[0], answers)

    message = oru_message([order], MODEL, "ID", is_correction=False)

    found = [each[4] for each in segments(message, "OBX") if each[3] == FRACTURE]
    uids = [
        (each[4], each[5])
        for each in segments(message, "OBX")
        if each[3].startswith("SOP_INSTANCE_UID")
    ]
    assert found == ["1", "2"]
    assert uids == [("1", image.sop_instance_uid), ("2", "1.2.9")]
    numbers = [each[1] for each in segments(message, "OBX")]
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]


def test_invalid_codes_and_dates_are_omitted(tmp_path: Path) -> None:
    dataset = phantom_dataset(PHANTOM)
    instance = received(dataset, tmp_path)
    content = instance.path.read_bytes()
    content = content.replace(b"19600101", b"unknown ")
    instance.path.write_bytes(content.replace(b"CS\x02\x00O ", b"CS\x02\x00\xfc "))

    (study,) = read_orders(read_source(instance))

    assert (study.birth_date, study.sex) == ("", "")


@pytest.mark.parametrize("character_set", ["", "ISO_IR 6", "ISO_IR 999"])
def test_bytes_of_an_undeclared_character_set_are_not_guessed(
    character_set: str, tmp_path: Path
) -> None:
    """The bytes mean Greek letters in ISO 8859-7, but other letters in Latin-1."""
    dataset = phantom_dataset(PHANTOM)
    dataset.SpecificCharacterSet = "ISO_IR 126"
    dataset.PatientName = "Διονυσιος"
    instance = received(dataset, tmp_path)
    content = instance.path.read_bytes()
    padded = character_set.ljust(10).encode()
    instance.path.write_bytes(content.replace(b"ISO_IR 126", padded))

    (study,) = read_orders(read_source(instance))

    assert study.names[0].family == "\N{REPLACEMENT CHARACTER}" * 9


def test_mutated_headers_give_messages_or_errors_of_the_analysis(
    tmp_path: Path,
) -> None:
    outcomes = set[str]()
    path = tmp_path / "mutated.dcm"
    for sample in mutations(originals(150_000), seed=7, count=60):
        instance = replace(received(phantom_dataset(PHANTOM), tmp_path), path=path)
        path.write_bytes(sample.part10)
        try:
            (result,) = encode_notice(instance, ("Failed", "x"), MODEL, OPTIONS)
        except AnalysisError:
            outcomes.add("error")
            continue
        lines = text(result).split("\r")[:-1]
        outcomes.add("message")
        assert {each[:4] for each in lines} == {"MSH|", "PID|", "OBR|", "OBX|"}

    assert outcomes == {"error", "message"}


@pytest.mark.usefixtures("common_decoders")
def test_the_confined_decoder_decodes_names_in_every_character_set(
    tmp_path: Path,
) -> None:
    """The decoder must load all codecs before its confinement.

    A confined decoder cannot load a codec.
    """
    names = {
        "ISO_IR 100": "Müller",
        "ISO_IR 101": "Dvořák",
        "ISO_IR 109": "Ħal",
        "ISO_IR 110": "Ķauķis",
        "ISO_IR 144": "Люкс",
        "ISO_IR 127": "قباني",
        "ISO_IR 126": "Διονυσιος",
        "ISO_IR 138": "שרון",
        "ISO_IR 148": "Çavuşoğlu",
        "ISO_IR 13": "ﾔﾏﾀﾞ",
        "ISO_IR 166": "นามสกุล",
        "ISO_IR 192": "山田",
        "GB18030": "王",
        "GBK": "王",
        "\\ISO 2022 IR 87": "Yamada=山田",
        "\\ISO 2022 IR 159": "Yamada=丂",
        "\\ISO 2022 IR 149": "Hong=洪",
    }
    with closing(DecoderProcess(timeout_s=20, memory_mb=1024)) as child:
        for character_set, name in names.items():
            dataset = phantom_dataset(PHANTOM)
            dataset.SpecificCharacterSet = character_set.split("\\")
            dataset.PatientName = name
            instance = received(dataset, tmp_path)
            (result,) = child.run(
                encode_file, instance, PHANTOM.radiograph(), FINDING, OPTIONS
            )
            (pid,) = segments(text(result), "PID")
            groups = [each.partition("^")[0] for each in pid[5].split("~")]
            assert groups == name.split("="), character_set
