"""The dialects of published files, on small files written here; and what a wrong file is told."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.core.errors import UserError
from suites._files import DataError, Published, Row, read


def _published(dialect: str, n_rows: int, **changes: object) -> Published:
    file = Published("there/file", dialect, n_rows, "https://example.org/file", "CC0")
    return replace(file, **changes)  # type: ignore[arg-type]


def _read(tmp_path: Path, data: bytes, dialect: str, n_rows: int, **changes: object) -> list[Row]:
    (tmp_path / "there").mkdir(exist_ok=True)
    (tmp_path / "there" / "file").write_bytes(data)
    return read(_published(dialect, n_rows, **changes), tmp_path)


def _trouble(tmp_path: Path, data: bytes, dialect: str, n_rows: int, **changes: object) -> str:
    with pytest.raises(DataError) as caught:
        _read(tmp_path, data, dialect, n_rows, **changes)
    assert caught.value.state == "wrong"
    assert str(tmp_path / "there" / "file") in str(caught.value)
    assert f"bench data status --data {tmp_path}" in str(caught.value)
    return str(caught.value)


PARTI = ("Prompt", "Category", "Challenge", "Note")


def test_tsv_without_quoting_keeps_quotation_marks(tmp_path: Path) -> None:
    data = (
        b'Prompt\tCategory\tChallenge\tNote\n"G I G G L E" painted\tArts\tBasic\t\na "quoted" word \tArts\tBasic\tn\n'
    )
    rows = _read(tmp_path, data, "tsv", 2, columns=PARTI)
    assert [row["Prompt"] for row in rows] == ['"G I G G L E" painted', 'a "quoted" word ']
    assert rows[0]["Note"] == ""


def test_tsv_with_quoting_undoes_it(tmp_path: Path) -> None:
    data = b'id\tcaption\n7\t"a sign that reads ""lincoln av e."""\n8\tplain\n'
    rows = _read(tmp_path, data, "tsv-quoted", 2, columns=("id", "caption"))
    assert [row["caption"] for row in rows] == ['a sign that reads "lincoln av e."', "plain"]


def test_csv_with_byte_order_mark_and_line_breaks_in_quotes(tmp_path: Path) -> None:
    data = '\ufeffPrompt,类别\r\n"in the shape of a\r\ntriangle.",颜色\r\nA red car.,颜色\r\n'.encode()
    rows = _read(tmp_path, data, "csv", 2, columns=("Prompt", "类别"))
    assert rows == [
        {"Prompt": "in the shape of a\r\ntriangle.", "类别": "颜色"},
        {"Prompt": "A red car.", "类别": "颜色"},
    ]


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    # U+2028, form feed and NEL end a line for str.splitlines
    rows = _read(tmp_path, "one\u2028still one\x0c\x85\ntwo \n three\t".encode(), "lines", 3)
    assert [row["text"] for row in rows] == ["one\u2028still one\x0c\x85", "two ", " three\t"]


def test_a_final_line_feed_makes_no_row_and_an_empty_line_does(tmp_path: Path) -> None:
    assert len(_read(tmp_path, b"a\n\nb\n", "lines", 3)) == 3


def test_json_strings_keep_line_breaks_and_outer_white_space(tmp_path: Path) -> None:
    rows = _read(tmp_path, json.dumps(["a\nb", " c "]).encode(), "json-strings", 2)
    assert [row["text"] for row in rows] == ["a\nb", " c "]


def test_lines_that_end_in_cr_lf_with_and_without_a_last_one(tmp_path: Path) -> None:
    for data in (b"a cat\r\na dog ", b"a cat\r\na dog \r\n"):
        rows = _read(tmp_path, data, "lines-crlf", 2)
        assert [row["text"] for row in rows] == ["a cat", "a dog "]


def test_json_lines_keep_what_is_no_text_as_json(tmp_path: Path) -> None:
    data = b'{"tag": "counting", "include": [{"count": 2}], "prompt": "two cats"}\n'
    (row,) = _read(tmp_path, data, "json-lines", 1, columns=("tag", "include", "prompt"))
    assert (row["prompt"], json.loads(row["include"])) == ("two cats", [{"count": 2}])
    assert "line 2 is not of the published form" in _trouble(tmp_path, data + b'{"tag": "x"}\n', "json-lines", 2,
                                                             columns=("tag", "include", "prompt"))  # fmt: skip


def test_json_objects_of_names(tmp_path: Path) -> None:
    rows = _read(tmp_path, b'{"7.txt": "a cat\\n"}', "json-texts", 1)
    assert rows == [{"name": "7.txt", "text": "a cat\n"}]
    rows = _read(tmp_path, b'{"00001": {"prompt": "a cat", "models": {}}}', "json-records", 1, columns=("prompt",))
    assert rows == [{"name": "00001", "prompt": "a cat"}]
    rows = _read(tmp_path, b'{"basic": [0, 12]}', "json-numbers", 1)
    assert rows == [{"label": "basic", "numbers": "0 12"}]
    assert "no object of names" in _trouble(tmp_path, b"[]", "json-texts", 1)
    assert "record 0 is not" in _trouble(tmp_path, b'{"basic": ["a"]}', "json-numbers", 1)


def test_a_file_whose_rows_nobody_has_counted_needs_one_at_least(tmp_path: Path) -> None:
    assert len(_read(tmp_path, b"a\nb\n", "lines", 0)) == 2
    assert "there is no row in it" in _trouble(tmp_path, b"", "lines", 0)


def test_parquet_without_a_reader_says_what_else_will_do(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    try:
        pd.DataFrame({"prompt": ["a cat", None, "a dog"]}).to_parquet(tmp_path / "t.parquet")
    except ImportError:
        with pytest.raises(UserError, match="needs pyarrow") as caught:
            _read(tmp_path, b"PAR1", "parquet", 0, columns=("prompt",))
        assert "JSON lines" in caught.value.valid
        return
    rows = _read(tmp_path, (tmp_path / "t.parquet").read_bytes(), "parquet", 2, columns=("prompt",))
    assert [row["prompt"] for row in rows] == ["a cat", "a dog"]
    assert "not a Parquet table" in _trouble(tmp_path, b"PAR1", "parquet", 0, columns=("prompt",))


def test_coco_annotations_in_file_order(tmp_path: Path) -> None:
    document = {
        "images": [],
        "annotations": [{"image_id": 9, "id": 2, "caption": "x"}, {"image_id": 1, "id": 3, "caption": "y"}],
    }
    rows = _read(tmp_path, json.dumps(document).encode(), "coco-captions", 2, columns=("image_id", "id", "caption"))
    assert [row["image_id"] for row in rows] == ["9", "1"]


# ------------------------------------------------------------------------------------------------------- wrong files


def test_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(_published("lines", 5), tmp_path)
    assert caught.value.state == "missing"
    text = str(caught.value)
    assert "there is no such file" in text
    assert "https://example.org/file" in text
    assert "bench data status" in text


def test_folder_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "there" / "file").mkdir(parents=True)
    with pytest.raises(DataError, match="cannot be read") as caught:
        read(_published("lines", 5), tmp_path)
    assert caught.value.state == "wrong"


def test_truncated_table_names_rows_and_the_first_bad_line(tmp_path: Path) -> None:
    text = _trouble(tmp_path, b"Prompt\tCategory\tChallenge\tNote\na\tb\tc\td\nhalf a pro", "tsv", 1632, columns=PARTI)
    assert "1 good rows instead of 1,632" in text
    assert "line 3 has 1 fields instead of 4: 'half a pro'" in text


def test_truncated_quotes(tmp_path: Path) -> None:
    text = _trouble(tmp_path, b'a,b\n1,2\n3,"never closed\n', "csv", 3, columns=("a", "b"))
    assert "1 good rows instead of 3; first bad thing: line 3" in text


def test_truncated_json(tmp_path: Path) -> None:
    text = _trouble(tmp_path, b'["a", "b', "json-strings", 800)
    assert "0 good rows instead of 800; first bad thing: not JSON at line 1 column 7" in text


def test_truncated_lines(tmp_path: Path) -> None:
    assert "2 good rows instead of 446" in _trouble(tmp_path, b"a\nb", "lines", 446)


def test_another_header(tmp_path: Path) -> None:
    text = _trouble(tmp_path, b"prompt\tCategory\n", "tsv", 1, columns=PARTI)
    assert "the header is ['prompt', 'Category'] instead of ['Prompt', 'Category', 'Challenge', 'Note']" in text


def test_empty_file(tmp_path: Path) -> None:
    assert "0 good rows instead of 3" in _trouble(tmp_path, b"", "lines", 3)
    assert "the header is []" in _trouble(tmp_path, b"", "csv", 3, columns=("a",))


def test_record_of_another_form(tmp_path: Path) -> None:
    assert "record 1 is not of the published form: 5" in _trouble(tmp_path, b'["a", 5]', "json-strings", 2)
    assert "record 0" in _trouble(tmp_path, b'[{"txt": "a"}]', "json-objects", 1, columns=("text",))
    assert "no COCO caption file" in _trouble(tmp_path, b"[]", "coco-captions", 1, columns=("id",))
    assert "no list of records" in _trouble(tmp_path, b"{}", "coco-captions", 1, columns=("id",))


def test_web_page_and_lfs_pointer(tmp_path: Path) -> None:
    assert "web page" in _trouble(tmp_path, b"\n<!DOCTYPE html><html>", "lines", 1)
    assert "Git LFS pointer" in _trouble(tmp_path, b"version https://git-lfs.github.com/spec/v1\noid x", "lines", 2)


def test_other_encoding(tmp_path: Path) -> None:
    assert "byte 3 is not UTF-8" in _trouble(tmp_path, "caf\u00e9".encode("latin-1"), "lines", 1)


def test_digest_tells_converted_line_ends_from_edited_text(tmp_path: Path) -> None:
    sha256 = hashlib.sha256(b"a cat\na dog\n").hexdigest()
    assert len(_read(tmp_path, b"a cat\na dog\n", "lines", 2, sha256=sha256)) == 2
    assert "line ends were converted" in _trouble(tmp_path, b"a cat\r\na dog\r\n", "lines", 2, sha256=sha256)
    assert "its text or some" in _trouble(tmp_path, b"a cat\na hog\n", "lines", 2, sha256=sha256)


def test_spots_tell_another_list_where_no_digest_is_known(tmp_path: Path) -> None:
    spots = ((1, "text", "a dog"),)
    assert "row 1 reads 'a hog' instead of 'a dog'" in _trouble(tmp_path, b"a cat\na hog\n", "lines", 2, spots=spots)
