"""CSV files that name images. Their rows are written out, so that what they give can be read off."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from advvae.data.listing import Listing, Unused
from advvae.data.table import CONTRADICTED, REPEATED, WITHOUT_PATH, WITHOUT_SPLIT, read_table
from advvae.errors import UserError


def write(folder: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path = folder / "list.csv"
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


def read(folder: Path, *lines: str, encoding: str = "utf-8") -> Listing:
    return read_table(write(folder, *lines, encoding=encoding), folder)


def refused(folder: Path, *lines: str, encoding: str = "utf-8") -> str:
    """The message, which is one line and names the file."""
    with pytest.raises(UserError) as error:
        read(folder, *lines, encoding=encoding)
    message = str(error.value)
    assert message.startswith(f"{folder / 'list.csv'}")
    assert "\n" not in message
    return message


def test_all_columns_in_any_order_and_capitals(tmp_path: Path) -> None:
    listing = read(
        tmp_path,
        "Group, Split ,PATH,mask,label,patient_name",
        'p1,Train,"a, b.png",masks/a.png,normal,Doe^John',
        "p2,TEST,c.png,,edema,Doe^Jane",
    )
    first, second = listing.entries
    assert (first.path, first.split, first.labels) == (tmp_path / "a, b.png", "train", ("normal",))
    assert (first.group, first.mask) == ("p1", tmp_path / "masks/a.png")
    assert (second.path, second.split, second.labels) == (tmp_path / "c.png", "test", ("edema",))
    assert (second.group, second.mask) == ("p2", None)
    assert (listing.has_groups, listing.has_masks, listing.multi_label) == (True, True, False)
    assert "Doe" not in repr(listing)  # a column that is not asked for is not kept


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_separators_and_byte_order_marks(tmp_path: Path, mark: str, encoding: str) -> None:
    rows = (["path", "label"], ["ä.png", '"edema;mass"'])
    (entry,) = read(tmp_path, *map(mark.join, rows), encoding=encoding).entries
    assert (entry.path.name, entry.labels) == ("ä.png", ("edema", "mass"))


def test_one_column_and_windows_line_ends(tmp_path: Path) -> None:
    listing = read(tmp_path, "path\r", "a.png\r", "\r", "b.png\r", "")
    assert [entry.path.name for entry in listing.entries] == ["a.png", "b.png"]
    assert (listing.has_groups, listing.has_masks, listing.classes) == (False, False, [])
    assert listing.numbers(listing.entries).tolist() == [-1, -1]


def test_paths_may_leave_the_root_or_be_absolute(tmp_path: Path) -> None:
    listing = read_table(write(tmp_path, "path", "../other/a.png", "/data/b.png"), tmp_path / "images")
    assert [entry.path for entry in listing.entries] == [tmp_path / "images/../other/a.png", Path("/data/b.png")]


def test_single_labels_have_numbers_by_name_and_normal_is_a_class(tmp_path: Path) -> None:
    listing = read(tmp_path, "path,label", "a,normal", "b,edema", "c,", "d,normal")
    assert listing.classes == ["edema", "normal"]
    assert listing.numbers(listing.entries).tolist() == [1, 0, -1, 1]


@pytest.mark.parametrize("mark", [";", "|"])
def test_several_labels(tmp_path: Path, mark: str) -> None:
    rows = ("a,edema", f"b,mass{mark} edema", "c,", "d,No Finding", "e,NORMAL", f"f,mass{mark}normal")
    listing = read(tmp_path, "path,label", *rows)
    assert listing.classes == ["edema", "mass"]
    assert listing.numbers(listing.entries).tolist() == [[1, 0], [1, 1], [0, 0], [0, 0], [0, 0], [0, 1]]
    assert listing.notes == [
        "an image may have several labels, and is normal where it has none",
        "1 images with an empty label are taken for normal",
        "1 images are called normal beside other labels: these count",
    ]


def test_labels_have_the_same_number_in_every_split(tmp_path: Path) -> None:
    listing = read(tmp_path, "path,label,split", "a,normal,train", "b,edema,test", "c,normal,test")
    test = [entry for entry in listing.entries if entry.split == "test"]
    assert (listing.numbers(test).tolist(), listing.classes) == ([0, 1], ["edema", "normal"])


def test_labels_that_differ_in_capitals_alone(tmp_path: Path) -> None:
    message = refused(tmp_path, "path,label", "a,Normal", "b,normal")  # [normal] would leave the first out unseen
    assert message.endswith("the labels Normal and normal differ in capitals alone: spell them alike")


@pytest.mark.parametrize("word", ["val", "Valid", "VALIDATION"])
def test_names_of_splits(tmp_path: Path, word: str) -> None:
    listing = read(tmp_path, "path,split", "a,train", f"b,{word}")
    assert [entry.split for entry in listing.entries] == ["train", "val"]


def test_without_any_split_all_rows_are_training_images_to_cut(tmp_path: Path) -> None:
    listing = read(tmp_path, "path,split", "a,", "b,")
    assert ([entry.split for entry in listing.entries], listing.left_out) == (["train", "train"], [])


def test_rows_without_a_split_among_others_are_left_out(tmp_path: Path) -> None:
    listing = read(tmp_path, "path,split", "a,", "b,train")
    assert [entry.path.name for entry in listing.entries] == ["b"]
    assert listing.left_out == [Unused(str(tmp_path / "a"), WITHOUT_SPLIT)]


def test_unknown_split(tmp_path: Path) -> None:
    message = refused(tmp_path, "path,split", "a,train", "b,holdout")
    assert message.endswith("row 3 has the split 'holdout', which is none of train, val, test, valid, validation")


def test_the_first_row_of_a_path_counts(tmp_path: Path) -> None:
    listing = read(tmp_path, "path,label", "a/b,x", "a/b,x", "c,x", "a/../a/b,y", f"{tmp_path}/c,x", ",x")
    assert [(entry.path.name, entry.labels) for entry in listing.entries] == [("b", ("x",)), ("c", ("x",))]
    assert listing.left_out == [
        Unused(str(tmp_path / "a/b"), REPEATED),
        Unused(str(tmp_path / "a/b"), CONTRADICTED),
        Unused(str(tmp_path / "c"), REPEATED),
        Unused("row 7", WITHOUT_PATH),
    ]


def test_images_without_a_group_are_counted(tmp_path: Path) -> None:
    listing = read(tmp_path, "path,group", "a,p1", "b,", "c,")
    assert [entry.group for entry in listing.entries] == ["p1", "", ""]
    assert listing.notes == ["2 of 3 images have no group: each of these is a group of its own"]


def test_no_patient_may_be_in_two_splits(tmp_path: Path) -> None:
    rows = ("a,Doe^John,train", "b,p2,train", "c,p2,test", "d,Doe^John,val", "e,Doe^John,test", "f,,train", "g,,test")
    message = refused(tmp_path, "path,group,split", *rows)
    assert message.endswith(
        "2 groups have images in two splits, such as that of row 3 (train) and row 4 (test): "
        "no patient may be in two splits"
    )
    assert "Doe" not in message


def test_missing_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/no\.csv cannot be read \(No such file or directory\): check dataset\.csv"):
        read_table(tmp_path / "no.csv", tmp_path)
    with pytest.raises(UserError, match=re.escape(f"{tmp_path} cannot be read as a CSV file")):
        read_table(tmp_path, tmp_path)


def test_missing_column_names_those_found(tmp_path: Path) -> None:
    message = refused(tmp_path, "file;label", "a;x")
    assert message.endswith("has no column path, which names the image of each row; its columns are: file, label")
    assert refused(tmp_path).endswith("its columns are: none")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,label,label", "a,x,y"], "has several columns label: rename all but one"),
        (["path,label", "a,x,y"], "row 2 has 3 cells and the header 2: quote what holds a separator"),
        (["path", 'a"', '"b'], "row 3 cannot be read (unexpected end of data): look for a quote"),
        (["path,label", "", "a,x", 'b,"y', "c,z", 'd,"z"'], "row 4 cannot be read (',' expected after '\"')"),
        (["path,label", ",x"], "lists no images"),
        (["path"], "lists no images"),
    ],
)
def test_tables_that_are_broken(tmp_path: Path, lines: list[str], message: str) -> None:
    assert message in refused(tmp_path, *lines)


def test_other_encodings(tmp_path: Path) -> None:
    assert "is not UTF-8: save it as such" in refused(tmp_path, "path,label", "ä.png,x", encoding="latin-1")


def test_a_changed_table_is_read_again(tmp_path: Path) -> None:
    assert len(read(tmp_path, "path", "a").entries) == 1
    assert len(read(tmp_path, "path", "a", "b").entries) == 2


def test_patients_under_another_name_are_told(tmp_path: Path) -> None:
    told = "it has no column group, so that each file is taken for a patient of its own"
    assert list(read(tmp_path, "path", "a").notes) == []
    assert list(read(tmp_path, "path,patient_id", "a,x").notes) == [f"{told}; columns that are not read: patient_id"]
    assert list(read(tmp_path, "path,group,age", "a,x,3").notes) == []
