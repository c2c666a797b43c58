"""Patient names and identifiers: decoding, display and comparison."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.charset import python_encoding

from dicom_node.patient import LONGEST, Patient, display_name, folded, patient_of


# The examples of PS3.5 H.3 (Japanese), I.2 (Korean), J.1 and J.3 (Chinese).
@pytest.mark.parametrize(
    ("character_set", "value", "name"),
    [
        pytest.param(b"", b"Doe^Jane", "Doe^Jane", id="none"),
        pytest.param(b"ISO_IR 100", b"Buc^J\xe9r\xf4me", "Buc^Jérôme", id="Latin 1"),
        pytest.param(b"ISO_IR 144", b"\xbb\xee\xda\xe1", "Люкс", id="Cyrillic"),
        pytest.param(
            b"\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B="
            b"\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
            id="Japanese",
        ),
        pytest.param(
            b"\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7="
            b"\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            "Hong^Gildong=洪^吉洞=홍^길동",
            id="Korean",
        ),
        pytest.param(
            b"ISO_IR 192",
            "Wang^XiaoDong=王^小東=".encode(),
            "Wang^XiaoDong=王^小東=",
            id="UTF-8",
        ),
        pytest.param(
            b"\\ISO 2022 IR 58",
            b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
            "Zhang^XiaoDong=张^小东=",
            id="Chinese in GB 2312",
        ),
        pytest.param(
            b"GB18030",
            "Wang^XiaoDong=王^小东=".encode("gb18030"),
            "Wang^XiaoDong=王^小东=",
            id="Chinese",
        ),
        pytest.param(b"NO SUCH SET", b"M\xfcller", "Müller", id="unknown set"),
        pytest.param(b"ISO_IR 192", b"M\xfcller", "M\N{REPLACEMENT CHARACTER}ller"),
        pytest.param(b"", b"  Doe^Jane \0", "Doe^Jane", id="padded"),
        pytest.param(
            b"", b"Doe\x00\x07Jane", "Doe\ufffd\ufffdJane", id="control codes"
        ),
    ],
)
def test_names_are_decoded(character_set: bytes, value: bytes, name: str) -> None:
    values = {"SpecificCharacterSet": character_set, "PatientName": value}

    assert patient_of(values).name == name


def test_all_three_identifiers_are_read() -> None:
    values = {
        "PatientName": b"Doe^Jane",
        "PatientID": b"0815 ",
        "AccessionNumber": b"A-7",
    }

    assert patient_of(values) == Patient("Doe^Jane", "0815", "A-7")
    assert patient_of({}) == Patient()


@given(
    st.sampled_from(sorted(python_encoding)),
    st.binary(max_size=2000),
    st.binary(max_size=40),
)
def test_any_bytes_are_decoded_to_printable_text_of_bounded_length(
    term: str, value: bytes, other: bytes
) -> None:
    for terms in (term.encode(), b"\\" + term.encode(), other):
        patient = patient_of(
            {"SpecificCharacterSet": terms, "PatientName": value, "PatientID": value}
        )
        for text in (patient.name, patient.patient_id):
            assert len(text) <= LONGEST
            assert text.isprintable()
            text.encode()  # no lone surrogates, because databases refuse them


def test_long_value_is_marked_as_truncated() -> None:
    first, second, endless = b"1" * 64 + b"A", b"1" * 64 + b"B", b"1" * 5000

    ids = [patient_of({"PatientID": each}).patient_id for each in (first, second)]
    cut = [patient_of({"PatientID": endless[:n]}).patient_id for n in (1001, 5000)]

    assert ids == [first.decode(), second.decode()]
    assert {len(each) for each in cut} == {LONGEST}
    assert all(each.endswith("1…") for each in cut)


@pytest.mark.parametrize(
    ("name", "spoken"),
    [
        ("Doe^Jane", "Doe, Jane"),
        ("Doe^Jane^Q^Dr^MD", "Doe, Jane Q Dr MD"),
        ("Doe", "Doe"),
        ("", ""),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou (山田, 太郎)"),
        ("=山田^太郎", "山田, 太郎"),
        ("^Jane", "Jane"),
    ],
)
def test_name_components_are_formatted_for_display(name: str, spoken: str) -> None:
    assert display_name(name) == spoken


@pytest.mark.parametrize(
    ("text", "comparable"),
    [
        ("MÜLLER^Éva", "muller eva"),
        ("  a   b ", "a b"),
        ("Straße", "strasse"),
        ("\uff21\uff11", "a1"),  # full width
        ("Yamada^Tarou=山田^太郎", "yamada tarou 山田 太郎"),
    ],
)
def test_texts_are_folded_for_comparison(text: str, comparable: str) -> None:
    assert folded(text) == comparable
