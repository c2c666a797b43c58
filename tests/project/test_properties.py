"""Property-based tests of windows, saliency maps, UIDs and settings."""

import re
import tomllib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from config.settings import Settings, SettingsError, load
from dicom_node.pixels.windowing import LookUpTable, VoiLutFunction, Window
from dicom_node.uids import derived_uid
from inference.classification.preprocess import prepare
from inference.radiograph import Radiograph
from models.card import read_card

quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# Windowing: PS3.3 C.11.2.1.2, C.11.2.1.3

centers = st.floats(-1e6, 1e6)
widths = st.floats(1e-3, 1e6)
functions = st.sampled_from(VoiLutFunction)
windows = st.builds(Window, centers, widths, functions)


@quick
@given(windows, st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=20))
def test_window_is_monotonic_and_stays_between_0_and_1(
    window: Window, values: list[float]
) -> None:
    shown = window.apply(np.sort(values))

    assert (np.diff(shown) >= 0).all()
    assert shown.min() >= 0
    assert shown.max() <= 1


@quick
@given(centers, st.floats(2, 1e6))
def test_linear_window_is_black_and_white_at_the_limits_of_the_standard(
    center: float, width: float
) -> None:
    # Black if x <= c - 0.5 - (w-1)/2, white if x > c - 0.5 + (w-1)/2.
    ends = center - 0.5 + np.array([-1, 1]) * (width - 1) / 2

    shown = Window(center, width).apply(ends)

    np.testing.assert_allclose(shown, [0, 1], atol=1e-6)


@quick
@given(centers, st.floats(1, 1e6))
def test_linear_exact_and_sigmoid_have_the_center_and_limits_of_the_standard(
    center: float, width: float
) -> None:
    at = np.array([center - width / 2, center, center + width / 2])

    exact = Window(center, width, VoiLutFunction.LINEAR_EXACT).apply(at)
    sigmoid = Window(center, width, VoiLutFunction.SIGMOID).apply(at)

    np.testing.assert_allclose(exact, [0, 0.5, 1], atol=1e-6)
    # 1 / (1 + exp(-4 (x - c) / w)) is 1 / (1 + e^2) half a width below.
    low = 1 / (1 + np.e**2)
    np.testing.assert_allclose(sigmoid, [low, 0.5, 1 - low], atol=1e-6)


@quick
@given(
    st.integers(-(2**15), 2**16 - 1),
    st.lists(st.integers(0, 2**12 - 1), min_size=1, max_size=50),
    st.integers(-(2**17), 2**17),
)
def test_lookup_table_returns_its_entries_and_clamps_other_values(
    first: int, entries: list[int], value: int
) -> None:
    table = LookUpTable(first, np.array(entries, np.uint16), 12)

    (found,) = table.apply(np.array([value]))

    assert found == entries[min(max(value - first, 0), len(entries) - 1)]


# Saliency maps: from the input of the network to the radiograph

CARD = read_card(Path(__file__).parents[2] / "models" / "fracture_model.toml")


@quick
@given(
    st.integers(40, 400),
    st.integers(40, 400),
    st.sampled_from(["letterbox", "stretch"]),
    st.floats(0.1, 0.9),
    st.floats(0.1, 0.9),
)
def test_saliency_maps_a_bright_spot_to_its_position_on_the_radiograph(
    rows: int, columns: int, resize: str, down: float, across: float
) -> None:
    card = replace(CARD, resize=resize)
    row, column = int(down * rows), int(across * columns)
    pixels = np.zeros((rows, columns), np.uint8)
    size = min(rows, columns) // 20
    pixels[row - size : row + size + 1, column - size : column + size + 1] = 255
    prepared = prepare(Radiograph(pixels, None, (rows, columns)), card)

    network_map = prepared.gray[0].numpy().astype(np.float32)
    saliency = prepared.saliency(network_map)

    # The centers of both spots, as fractions of the size.
    found = np.argwhere(saliency > 0.5).mean(axis=0) + 0.5
    spot = np.argwhere(pixels).mean(axis=0) + 0.5
    np.testing.assert_allclose(
        found / saliency.shape, spot / pixels.shape, atol=1.5 / min(saliency.shape)
    )


# UIDs: PS3.5 9.1

parts = st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")))
COMPONENTS = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")


@quick
@given(parts, parts)
@example(["ab", "c"], ["a", "bc"])
@example(["a"], ["a", ""])
def test_derived_uids_are_valid_and_equal_only_for_equal_parts(
    one: list[str], other: list[str]
) -> None:
    first, second = derived_uid(*one), derived_uid(*other)

    assert COMPONENTS.fullmatch(first)
    assert len(first) <= 64
    assert (first == second) is (one == other)


# Settings

KEYS = {
    name: (
        list(field.annotation.model_fields)  # type: ignore[union-attr]
        if hasattr(field.annotation, "model_fields")
        else ["name", "type", "host", "port", "results", "peers", "url"]
    )
    for name, field in Settings.model_fields.items()
}
scalars = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["~nobody/x", "dicom", "sender", "stow", "\ud7ff", "postgresql://"]
    )
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=5) | st.sampled_from(["name", "type"]), inner
        )
    ),
    max_leaves=6,
)
tables = st.dictionaries(
    st.sampled_from(sorted(KEYS)) | st.text(max_size=8),
    values
    | st.dictionaries(
        st.sampled_from(sorted({key for keys in KEYS.values() for key in keys})), values
    )
    | st.lists(st.dictionaries(st.sampled_from(KEYS["destinations"]), values)),
    max_size=3,
)


@quick
@given(tables)
@example({"\u2028": True})
@example({"\r\n": {}})
def test_settings_load_or_the_error_names_the_wrong_key(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text("".join(f"{_key(k)} = {_toml(v)}\n" for k, v in tree.items()))
    assert tomllib.loads(path.read_text()).keys() == tree.keys()

    try:
        load(path, {})
    except SettingsError as error:
        lines = str(error).splitlines()[1:]
        assert lines
        keys = [key if key.isprintable() else repr(key) for key in tree]
        assert any(key in line for line in lines for key in keys)


@quick
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_invalid_toml_raises_only_settings_errors(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content)

    with suppress(SettingsError):
        load(path, {})


def _key(text: str) -> str:
    escaped = "".join(f"\\U{ord(c):08x}" for c in text)
    return f'"{escaped}"'


def _toml(value: Any) -> str:  # noqa: ANN401 - any tree
    """Return a value as TOML, in one line."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return _key(value)
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            return (
                f"{{{', '.join(f'{_key(k)} = {_toml(v)}' for k, v in value.items())}}}"
            )
        case float():
            return repr(value)
        case _:
            return str(value)
