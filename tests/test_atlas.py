"""Folders to learn from: read as their manifest says, refused in words."""

from pathlib import Path

import pytest

from inference.training.atlas import FOLDS, ManifestError, folds, read_manifest, rows_of
from tests.atlas import write_atlas


def test_a_manifest_is_read_with_its_boxes_and_traits(tmp_path: Path) -> None:
    samples = read_manifest(write_atlas(tmp_path / "atlas", 8))

    first = samples[0]
    assert len(samples) == 8
    assert [each.is_fractured for each in samples] == [True, False] * 4
    assert first.traits == {"body_part": "leg"}
    assert first.read().pixels.ndim == 2
    ((left, top, right, bottom),) = first.boxes
    assert 0 <= left < right <= 1
    assert 0 <= top < bottom <= 1


def test_rows_not_to_be_used_are_left_out(tmp_path: Path) -> None:
    folder = write_atlas(tmp_path / "atlas", 4)
    text = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(text.replace(",1,0,train", ",0,0,train", 1))

    assert len(read_manifest(folder)) == 3


@pytest.mark.parametrize(
    ("found", "instead", "words"),
    [
        ("path,label", "file,label", r"no columns \['path'\]"),
        ("0.png,1,", "0.png,yes,", "line 2: label is 'yes'; expected 0 or 1"),
        ("0.png,1,", "0.png,0,", "line 2: boxes, but label 0"),
        ("images/1.png", "images/none.png", "line 3: images/none.png is not there"),
        ("images/1.png", "images/0.png", "line 3: images/0.png is there a second time"),
        ("images/1.png,0", "images/1.png,0,", "line 3: more or fewer fields"),
        ("images/1.png,0,arm", "images/1.png,0,\xff", "cannot be read as CSV"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_line(
    tmp_path: Path, found: str, instead: str, words: str
) -> None:
    folder = write_atlas(tmp_path / "atlas", 4)
    text = (folder / "manifest.csv").read_text()
    changed = text.replace(found, instead)
    (folder / "manifest.csv").write_bytes(changed.encode("latin-1"))

    with pytest.raises(ManifestError, match=words):
        read_manifest(folder)


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    folder = write_atlas(tmp_path / "atlas", 4)
    text = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(text, encoding="utf-8-sig")

    assert len(read_manifest(folder)) == 4


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = write_atlas(tmp_path / "atlas", 4)
    (folder / "images" / "2.png").write_bytes(b"no picture")
    sample = read_manifest(folder)[2]

    with pytest.raises(ManifestError, match=r"2\.png: .* set `use` to 0"):
        sample.read()


def test_a_folder_without_a_manifest_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.csv cannot be read"):
        read_manifest(tmp_path)


def test_folds_part_no_group_and_share_the_fractures(tmp_path: Path) -> None:
    samples = read_manifest(write_atlas(tmp_path / "atlas", 48))

    parts = folds(samples, 3)

    groups = [{each.group for each in part} for part in parts]
    assert sorted(each.path for part in parts for each in part) == sorted(
        each.path for each in samples
    )
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    assert [sum(each.is_fractured for each in part) for part in parts] == [8, 8, 8]


def test_rows_are_chosen_by_the_manifests_split_or_by_what_a_fold_keeps_back(
    tmp_path: Path,
) -> None:
    samples = read_manifest(write_atlas(tmp_path / "atlas", 24))

    assert {each.split for each in rows_of(samples, "val")} == {"val"}
    assert rows_of(samples, "") == samples
    assert rows_of(samples, "fold-2") == folds(samples, FOLDS)[1]
    assert not rows_of(samples, "fold-6")
