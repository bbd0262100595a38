"""XML from other tools: every encoding that Python knows, and nothing that can hang or fill the memory."""

import os
import time
from pathlib import Path

import pytest

from boxwright.reading.xml_text import parse_xml, root_element


def texts(path: Path) -> list[str]:
    found: list[str] = []
    assert parse_xml(path, lambda *_: None, text=found.append) is None
    return found


@pytest.mark.parametrize(
    ("encoding", "word"),
    [
        ("gb2312", "数据"),
        ("GBK", "數據镕"),
        ("gb18030", "数据"),
        ("Big5", "數據"),
        ("Shift_JIS", "データ"),
        ("EUC-JP", "データ"),
        ("iso-2022-jp", "データ"),
        ("euc-kr", "데이터"),
        ("cp949", "똠"),
        ("utf-16", "数据"),
        ("utf-32", "数据"),
        ("iso-8859-1", "é"),
        ("windows-1251", "кот"),
        ("UTF-8", "数据"),
    ],
)
def test_every_encoding_is_read(tmp_path: Path, encoding: str, word: str) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(
        f"<?xml version='1.0' encoding='{encoding}'?><annotation><a>{word}</a></annotation>".encode(encoding)
    )
    assert texts(path) == [word]
    assert root_element(path) in ("annotation", "")


def test_a_superset_and_utf8_are_read_under_the_name_of_the_smaller_encoding(tmp_path: Path) -> None:
    for declared, written, word in (("gb2312", "gbk", "镕"), ("shift_jis", "cp932", "①"), ("big5", "utf-8", "數據")):
        path = tmp_path / f"{declared}.xml"
        path.write_bytes(f'<?xml version="1.0" encoding="{declared}"?><a>{word}</a>'.encode(written))
        assert texts(path) == [word]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<a>",
        "no xml",
        '<?xml version="1.0" encoding="klingon"?><a/>',
        '<?xml version="1.0" encoding="zlib"?><a/>',
        '<?xml version="1.0" encoding="punycode"?><a/>',
        '<?xml version="1.0" encoding="idna"?><a>\xff</a>',
    ],
)
def test_what_cannot_be_read_is_a_reason_and_no_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(text.encode("latin-1"))
    fault = parse_xml(path, lambda *_: None)
    assert fault is None or fault.reason
    assert fault is not None or "punycode" in text or "idna" in text


def test_bytes_that_are_not_of_the_declared_encoding_are_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(b'<?xml version="1.0" encoding="gb2312"?><a>\xff\xff</a>')
    fault = parse_xml(path, lambda *_: None)
    assert fault is not None
    assert "gb2312" in fault.reason


def test_nesting_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text("<a>" * 200_000 + "</a>" * 200_000)
    begun = time.monotonic()
    fault = parse_xml(path, lambda *_: None)
    assert fault is not None
    assert "nested more than" in fault.reason
    assert time.monotonic() - begun < 2


def test_no_document_type_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text('<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>')
    fault = parse_xml(path, lambda *_: None)
    assert fault is not None
    assert (fault.line, "document type" in fault.reason) == (2, True)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.xml")
    fault = parse_xml(tmp_path / "a.xml", lambda *_: None)
    assert fault is not None
    assert "no regular file" in fault.reason
    assert root_element(tmp_path / "a.xml") == ""
    (tmp_path / "b.xml").symlink_to(tmp_path / "nowhere")
    assert parse_xml(tmp_path / "b.xml", lambda *_: None) is not None


def test_the_outermost_element_is_found_behind_comments_and_declarations(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text('<?xml version="1.0"?><!-- <b> -->\n<!DOCTYPE x [<!ENTITY y "z">]>\n<annotation verified="no">')
    assert root_element(path) == "annotation"
