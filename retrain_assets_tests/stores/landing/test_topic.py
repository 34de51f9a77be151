"""Files of a topic join up by their names, and a line never poisons the file it stands in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.landing.source import LocalFiles
from retrain_assets.stores.landing.topic import TopicFiles, file_name, line_of


def dataset(landing: str = "events/*.jsonl", **changes: Any) -> DatasetSpec:
    attributes = {
        "name": "events",
        "landing": landing,
        "partition": {"by": "day", "column": "day", "start": "2013-01-01"},
        "columns": {"id": {"type": "int"}, "day": {"type": "date"}},
        "key": ["id"],
    }
    return DatasetSpec.model_validate(attributes | changes)


def landed(root: Path, topic: str, last: int, lines: bytes, **changes: Any) -> TopicFiles:
    files = TopicFiles(root, dataset(**changes), topic)
    with files.locked():
        files.write(0, 0, last, lines)
    return files


def object_of(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text.decode(), parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (b'{"a": 1}', b'{"a": 1}'),
        (b"  [1]\t", b"  [1]\t"),
        (b'{"a":\r\n 1}\n', b'{"a":   1} '),
        (b'{"a":\n' + b"1" * 5000 + b"}", b'{"a": ' + b"1" * 5000 + b"}"),
        (b'{"a": "x\ny"}', rb'"{\"a\": \"x\ny\"}"'),
        (b"no\njson", rb'"no\njson"'),
        (b"a\0b", rb'"a\u0000b"'),
        (b"", b'""'),
        (b" \n", rb'" \n"'),
        ("\u2028".encode(), rb'"\u2028"'),
        ('\ufeff{"a": 1}'.encode(), rb'"\ufeff{\"a\": 1}"'),
        (b"\xff\xfe", b'"base64://4="'),
        (None, b'"no value (tombstone)"'),
    ],
)
def test_a_message_is_one_line_and_what_cannot_be_is_a_json_string(
    value: bytes | None, line: bytes
) -> None:
    assert line_of(value) == line + b"\n"


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
)
OBJECTS = st.builds(
    lambda found, indent: json.dumps(found, indent=indent, ensure_ascii=False).encode(),
    st.dictionaries(st.text(max_size=5), JSON, max_size=3),
    st.sampled_from([None, 0, 2]),
)
TEXTS = st.text(st.sampled_from('{}[]":,a1 \n\r\0\t\ufeff\u2028'), max_size=12)


@given(OBJECTS | TEXTS.map(str.encode) | st.binary(max_size=12))
def test_a_line_is_the_object_the_message_was_and_never_another(value: bytes) -> None:
    line = line_of(value)
    text = line.decode()
    assert text.endswith("\n")
    assert not {"\n", "\r", "\0"} & set(text[:-1])
    assert text.strip()
    assert object_of(line) == object_of(value)


def test_every_message_is_a_row_or_a_broken_line_for_the_reader(tmp_path: Path) -> None:
    values = [None, b"", b"\xff", b"a\0b", b"[\n" * 90_000, b'{"id": 1, "day": "2013-01-01"}', b"7"]
    lines = b"".join(map(line_of, values))
    landed(tmp_path, "t", len(values) - 1, lines)
    landing = LocalFiles(tmp_path, dataset())
    (file,) = landing.files()
    found = landing.read(file)
    assert found.refusal is None
    assert found.rows["_line"].to_list() == [1, 2, 3, 4, 5, 6, 7]
    assert found.rows["_broken"].is_null().to_list() == [False] * 5 + [True, False]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (dataset("events/{partition}.jsonl"), "lands events/{partition}.jsonl: a topic needs"),
        (dataset("events/*.csv"), "such as events/*.jsonl"),
        (dataset(partition={"by": "none"}), "a topic needs UTF-8 JSONL"),
        (dataset(read={"encoding": "latin-1"}), "a topic needs UTF-8 JSONL"),
        (dataset("s3://bucket/events/*.jsonl"), "its folder must be a single one below"),
        (dataset("*/events-*.jsonl"), "its folder must be a single one below"),
    ],
)
def test_a_dataset_of_other_files_is_refused(tmp_path: Path, spec: DatasetSpec, said: str) -> None:
    with pytest.raises(ValueError, match=r"dataset events lands|its folder") as caught:
        TopicFiles(tmp_path, spec, "t")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "topic", ["", ".", "..", ".t", "a/b", "../t", "a\n", "a b", "\uff12", "a\0", "x" * 191, "t*"]
)
def test_what_is_no_name_of_a_topic_never_becomes_a_path(tmp_path: Path, topic: str) -> None:
    with pytest.raises(ValueError, match="a name has 1 to 190 of") as caught:
        TopicFiles(tmp_path, dataset(), topic)
    assert repr(topic) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_longest_name_of_a_topic_makes_a_file(tmp_path: Path) -> None:
    files = TopicFiles(tmp_path, dataset(), "x" * 190)
    with files.locked():
        files.write(2**31 - 1, 0, 2**63 - 1, b"1\n")
    assert files.next_offsets() == {2**31 - 1: 2**63}


def test_a_folder_that_leads_out_of_the_landing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "landing").mkdir()
    (tmp_path / "landing" / "events").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="its folder must be a single one below"):
        TopicFiles(tmp_path / "landing", dataset(), "t")


def test_a_file_the_dataset_would_not_see_is_not_written(tmp_path: Path) -> None:
    landed(tmp_path, "u", 0, b"1\n", landing="events/u-*.jsonl")
    with pytest.raises(ValueError, match=r"leaves out t-0-\d+-\d+\.jsonl: write events/\*\.jsonl"):
        landed(tmp_path, "t", 0, b"1\n", landing="events/u-*.jsonl")
    assert [path.name for path in (tmp_path / "events").glob("t*")] == []


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"1\n")


def test_the_next_offset_is_one_past_the_last_file_of_each_topic_partition(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "events"
    touch(folder, *(file_name("t", 0, first, first + 9) for first in (90, 100, 110)))
    touch(folder, file_name("t", 10, 5, 5), file_name("t-0", 1, 7, 7), file_name("at", 0, 3, 3))
    touch(folder, "t-0.jsonl.part", "other.jsonl", "t-0-1-2.jsonl")
    touch(folder, file_name("t", 0, 500, 500).replace("5", "\uff15"))
    assert TopicFiles(tmp_path, dataset(), "t").next_offsets() == {0: 120, 10: 6}
    assert TopicFiles(tmp_path, dataset(), "t-0").next_offsets() == {1: 8}
    assert TopicFiles(tmp_path, dataset(), "none").next_offsets() == {}


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ([(0, 9), (11, 20)], 10),
        ([(0, 9), (9, 20)], 10),
        ([(0, 9), (0, 12)], 10),
        ([(0, 30), (5, 9)], 31),
        ([(9, 5)], 9),
    ],
)
def test_files_that_do_not_join_up_are_named(
    tmp_path: Path, names: list[tuple[int, int]], wanted: int
) -> None:
    listed = [file_name("t", 3, first, last) for first, last in names]
    touch(tmp_path / "events", *listed)
    with pytest.raises(ValueError, match=f"should start at offset {wanted}: put") as caught:
        TopicFiles(tmp_path, dataset(), "t").next_offsets()
    assert all(name in str(caught.value) for name in listed)


def test_only_one_writes_a_topic_at_a_time(tmp_path: Path) -> None:
    files = TopicFiles(tmp_path, dataset(), "t")
    with files.locked():
        with TopicFiles(tmp_path, dataset(), "u").locked():
            pass
        with pytest.raises(RuntimeError, match=r"t is being landed in .* by another process"):
            files.locked().__enter__()
    with files.locked():
        assert LocalFiles(tmp_path, dataset()).files() == []


def test_a_lock_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    files = TopicFiles(tmp_path, dataset(), "t")
    files.folder.mkdir()
    (files.folder / ".t.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        files.locked().__enter__()
    assert not (tmp_path / "elsewhere").exists()


def test_what_stands_in_the_way_of_an_unfinished_file_is_not_followed(tmp_path: Path) -> None:
    files = TopicFiles(tmp_path, dataset(), "t")
    touch(files.folder, "precious")
    (files.folder / "t-0.jsonl.part").symlink_to("precious")
    os.mkfifo(files.folder / "t-1.jsonl.part")
    for partition in (0, 1):
        files.write(partition, 0, 0, b"2\n")
        assert (files.folder / file_name("t", partition, 0, 0)).read_bytes() == b"2\n"
    assert (files.folder / "precious").read_bytes() == b"1\n"
    assert not list(files.folder.glob("*.part"))


def test_a_file_is_on_disk_before_it_has_its_name_and_its_name_is_on_disk_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = os.fsync, []

    def fsync(descriptor: int) -> None:
        names = sorted(path.name for path in (tmp_path / "events").glob("t*"))
        seen.append((Path(f"/proc/self/fd/{descriptor}").resolve().name, names))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    landed(tmp_path, "t", 0, b"1\n")
    part, name = "t-0.jsonl.part", file_name("t", 0, 0, 0)
    assert seen == [(part, [part]), ("events", [name])]
