"""Training folders: reading of the manifest, and error messages."""

from pathlib import Path

import pytest

from inference.training.atlas import (
    FOLDS,
    ManifestError,
    folds,
    read_excluded,
    read_manifest,
    select_split,
)
from tests.support.phantom_atlas import write_atlas


def test_manifest_is_read_with_boxes_and_traits(tmp_path: Path) -> None:
    samples = read_manifest(write_atlas(tmp_path / "atlas", 8))

    first = samples[0]
    assert len(samples) == 8
    assert [each.is_fractured for each in samples] == [True, False] * 4
    assert first.traits == {"body_part": "leg"}
    assert first.read().pixels.ndim == 2
    ((left, top, right, bottom),) = first.boxes
    assert 0 <= left < right <= 1
    assert 0 <= top < bottom <= 1


def test_rows_with_use_0_are_skipped(tmp_path: Path) -> None:
    folder = write_atlas(tmp_path / "atlas", 4)
    text = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(text.replace(",1,0,train", ",0,0,train", 1))

    assert len(read_manifest(folder)) == 3


def test_rows_of_the_list_of_exclusions_are_skipped(tmp_path: Path) -> None:
    folder, listed = write_atlas(tmp_path / "atlas", 4), tmp_path / "copies.csv"
    listed.write_text("path,copy_of\nimages/1.png,images/0.png\n")

    found = read_manifest(folder, read_excluded(listed))

    assert [each.path.name for each in found] == ["0.png", "2.png", "3.png"]


def test_list_of_exclusions_of_another_manifest_is_rejected(tmp_path: Path) -> None:
    folder = write_atlas(tmp_path / "atlas", 4)

    with pytest.raises(ManifestError, match=r"no row for 2 paths .*such as a\.png"):
        read_manifest(folder, {"b.png", "a.png", "images/1.png"})


def test_list_of_exclusions_without_paths_is_rejected(tmp_path: Path) -> None:
    listed = tmp_path / "copies.csv"
    listed.write_text("file\nimages/1.png\n")

    with pytest.raises(ManifestError, match="lacks the column path"):
        read_excluded(listed)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("path,label", "file,label", r"is empty, or lacks the columns path\."),
        ("0.png,1,", "0.png,yes,", "line 2: label is 'yes'; expected 0 or 1"),
        ("0.png,1,", "0.png,0,", "line 2: found boxes, but label is 0"),
        ("images/1.png", "images/none.png", "line 3: images/none.png does not exist"),
        ("images/1.png", "images/0.png", "line 3: images/0.png is listed twice"),
        ("images/1.png,0", "images/1.png,0,", "line 3: more or fewer fields"),
        ("images/1.png,0,arm", "images/1.png,0,\xff", "cannot be read as CSV"),
    ],
)
def test_invalid_manifest_is_rejected_with_the_line_number(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    folder = write_atlas(tmp_path / "atlas", 4)
    text = (folder / "manifest.csv").read_text()
    changed = text.replace(old, new)
    (folder / "manifest.csv").write_bytes(changed.encode("latin-1"))

    with pytest.raises(ManifestError, match=message):
        read_manifest(folder)


def test_error_lists_eight_wrong_rows_and_counts_the_others(tmp_path: Path) -> None:
    folder = write_atlas(tmp_path / "atlas", 20)
    for image in (folder / "images").iterdir():
        image.unlink()

    with pytest.raises(ManifestError) as rejected:
        read_manifest(folder)

    heading, *listed, rest = str(rejected.value).splitlines()
    assert heading.endswith("20 rows are wrong:")
    assert len(listed) == 8
    assert rest == "  and 12 more"


def test_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    folder = write_atlas(tmp_path / "atlas", 4)
    text = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(text, encoding="utf-8-sig")

    assert len(read_manifest(folder)) == 4


def test_error_names_an_unreadable_image(tmp_path: Path) -> None:
    folder = write_atlas(tmp_path / "atlas", 4)
    (folder / "images" / "2.png").write_bytes(b"no picture")
    sample = read_manifest(folder)[2]

    with pytest.raises(ManifestError, match=r"2\.png: .* set `use` to 0"):
        sample.read()


def test_folder_without_a_manifest_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.csv cannot be read"):
        read_manifest(tmp_path)


def test_folds_keep_groups_together_and_distribute_fractures_evenly(
    tmp_path: Path,
) -> None:
    samples = read_manifest(write_atlas(tmp_path / "atlas", 48))

    parts = folds(samples, 3)

    groups = [{each.group for each in part} for part in parts]
    assert sorted(each.path for part in parts for each in part) == sorted(
        each.path for each in samples
    )
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    assert [sum(each.is_fractured for each in part) for part in parts] == [8, 8, 8]


def test_select_split_returns_a_split_or_a_fold(
    tmp_path: Path,
) -> None:
    samples = read_manifest(write_atlas(tmp_path / "atlas", 24))

    assert {each.split for each in select_split(samples, "val")} == {"val"}
    assert select_split(samples, "") == samples
    assert select_split(samples, "fold-2") == folds(samples, FOLDS)[1]
    assert select_split(samples, "fold-2", 3) == folds(samples, 3)[1]
    assert not select_split(samples, "fold-6")
