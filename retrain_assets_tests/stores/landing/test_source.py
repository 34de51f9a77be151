"""Landing files are found by their pattern, read once, and no row of theirs vanishes unseen."""

import io
import os
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from retrain_assets.stores.landing.source import Ignored, LocalFiles
from retrain_assets_tests.sales import DAY, deliver, read, spec


def keys(root: Path, pattern: str, **changes: Any) -> list[tuple[str, str]]:
    files = LocalFiles(root, spec(pattern, **changes)).files()
    return [(file.partition, file.path) for file in files]


def test_files_are_sorted_by_partition_and_path(tmp_path: Path) -> None:
    for name in ("2013-02-01-a", "2013-01-31-b", "2013-01-31-a"):
        deliver(tmp_path, f"sales/{name}.csv")
    assert keys(tmp_path, "sales/{partition}-*.csv") == [
        (DAY, "sales/2013-01-31-a.csv"),
        (DAY, "sales/2013-01-31-b.csv"),
        ("2013-02-01", "sales/2013-02-01-a.csv"),
    ]


def test_a_partition_can_be_a_folder_and_repeated_in_the_name(tmp_path: Path) -> None:
    deliver(tmp_path, "sales/2013-01-31/x-2013-01-31.csv")
    deliver(tmp_path, "sales/2013-02-01/x-2013-01-31.csv")
    deliver(tmp_path, "sales/2013-01-31/deeper/x-2013-01-31.csv")
    found = [(DAY, "sales/2013-01-31/x-2013-01-31.csv")]
    assert keys(tmp_path, "sales/{partition}/x-{partition}.csv") == found
    assert keys(tmp_path, "./sales//{partition}/x-{partition}.csv") == found


def test_without_partitions_every_file_has_the_one_key(tmp_path: Path) -> None:
    for name in ("planes-1.csv", "planes-2.csv", "planes.jsonl"):
        deliver(tmp_path, name)
    found = [("all", "planes-1.csv"), ("all", "planes-2.csv")]
    assert keys(tmp_path, "planes*.csv", partition={"by": "none"}) == found


def test_months_are_keys_of_their_own(tmp_path: Path) -> None:
    deliver(tmp_path, "2013-01.csv")
    deliver(tmp_path, "2013-01-31.csv")
    months = {"by": "month", "column": "day", "start": "2013-01"}
    assert keys(tmp_path, "{partition}.csv", partition=months) == [("2013-01", "2013-01.csv")]


@pytest.mark.parametrize(
    "name",
    [
        "2013-02-30.csv",
        "2012-12-31.csv",
        "2014-01-01.csv",
        "2013-1-5.csv",
        "\uff12013-01-05.csv",
        "d' OR '1'='1.csv",
        "2013-01-05xcsv",
        "2013-01-05.CSV",
        "2013-01-05.csv.tmp",
        "2013-01-05.csv.part",
        ".2013-01-05.csv",
    ],
)
def test_a_name_that_is_no_finished_partition_is_ignored(tmp_path: Path, name: str) -> None:
    deliver(tmp_path, f"sales/{name}")
    assert keys(tmp_path, "sales/{partition}.csv") == []


def test_what_is_no_regular_file_below_the_root_is_ignored(tmp_path: Path) -> None:
    root = tmp_path / "landing"
    inside = deliver(root, "archive/old.csv")
    outside = deliver(tmp_path, "secret.csv")
    deliver(tmp_path, f"elsewhere/{DAY}.csv")
    deliver(root, f"sales.tmp/{DAY}.csv")
    (root / "sales/2013-01-01.csv").mkdir(parents=True)
    os.mkfifo(root / "sales/2013-01-02.csv")
    (root / "sales/2013-01-03.csv").symlink_to(outside)
    (root / "sales/2013-01-04.csv").symlink_to(inside)
    (root / "sales/2013-01-05.csv").symlink_to("nowhere.csv")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    assert keys(root, "*/{partition}.csv") == [("2013-01-04", "sales/2013-01-04.csv")]


def test_nothing_has_landed_where_there_is_no_folder(tmp_path: Path) -> None:
    assert keys(tmp_path / "none", "sales/{partition}.csv") == []


def test_the_stamp_changes_with_size_or_time_alone(tmp_path: Path) -> None:
    file = deliver(tmp_path, f"sales/{DAY}.csv", b"ab")
    source = LocalFiles(tmp_path, spec())

    def stamp(content: bytes, modified_ns: int) -> str:
        file.write_bytes(content)
        os.utime(file, ns=(modified_ns, modified_ns))
        return source.files()[0].stamp

    assert stamp(b"ab", 1) == stamp(b"cd", 1)
    assert len({stamp(b"ab", 1), stamp(b"abc", 1), stamp(b"ab", 2)}) == 3


def test_a_file_is_digested_as_it_was_read_and_left_as_it_is(tmp_path: Path) -> None:
    content = b"id,day,note\n1,2013-01-31,x\n"
    file = read(tmp_path, content)
    assert file.sha256 == sha256(content).hexdigest()
    assert (tmp_path / file.path).read_bytes() == content


def test_a_file_that_has_gone_is_named(tmp_path: Path) -> None:
    file = deliver(tmp_path, f"sales/{DAY}.csv")
    source = LocalFiles(tmp_path, spec())
    listed = source.files()[0]
    file.unlink()
    raw = source.read(listed)
    assert raw.refusal == "it cannot be read (No such file or directory): deliver it again"
    assert (raw.partition, raw.stamp) == (DAY, listed.stamp)


def test_a_file_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = deliver(tmp_path, f"sales/{DAY}.csv", b"id,day,note\n1,2013-01-31,old\n")
    source, times = LocalFiles(tmp_path, spec()), iter([2, 3])
    fstat = os.fstat

    def replaced_meanwhile(descriptor: int) -> os.stat_result:
        seen = fstat(descriptor)
        if (time := next(times, None)) is not None:
            file.write_bytes(b"id,day,note\n%d,2013-01-31,new\n" % time)
            os.utime(file, ns=(time, time))
        return seen

    monkeypatch.setattr(os, "fstat", replaced_meanwhile)
    raw = source.read(source.files()[0])
    assert raw.rows["id"].to_list() == ["3"]
    assert raw.stamp == source.files()[0].stamp
    times = iter(range(4, 99))
    assert "changed whenever it was read" in (source.read(source.files()[0]).refusal or "")


def test_a_file_is_settled_once_it_has_rested(tmp_path: Path) -> None:
    file, second = deliver(tmp_path, f"sales/{DAY}.csv"), 10**9
    os.utime(file, ns=(100 * second, 100 * second))
    seen = LocalFiles(tmp_path, spec()).files()[0]
    rest = timedelta(seconds=5)
    settled = {now: seen.is_settled(rest, now * second) for now in (40, 100, 104, 105, 10**6)}
    assert settled == {40: True, 100: False, 104: False, 105: True, 10**6: True}


def test_a_file_above_the_bound_is_refused_unread(tmp_path: Path) -> None:
    raw = read(tmp_path, b"id,day,note\n" * 9, read={"max_bytes": 100})
    assert raw.refusal == "it has 108 bytes; read.max_bytes is 100"


def test_a_listing_opens_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 29):
        deliver(tmp_path, f"sales/2013-01-{number:02}.csv")
    source = LocalFiles(tmp_path, spec())
    monkeypatch.setattr(io, "open", lambda *_, **__: pytest.fail("a file was opened"))
    assert len(source.files()) == 28
    with pytest.raises(pytest.fail.Exception):
        source.read(source.files()[0])


@pytest.mark.parametrize(
    "pattern",
    [
        "sales/{partition}.csv",
        "sales/{partition}/of-{partition}.csv",
        "*/x-{partition}-*.csv",
        "sales/*-{partition}.csv",
    ],
)
def test_from_a_partition_on_the_same_files_are_found(tmp_path: Path, pattern: str) -> None:
    for number in range(1, 29):
        day = f"2013-01-{number:02}"
        deliver(tmp_path, pattern.replace("{partition}", day).replace("*", "y"))
    source = LocalFiles(tmp_path, spec(pattern))
    everything = source.files()
    assert len(everything) == 28
    for since in ("2012-01-01", "2013-01-09", "2013-01-28", "2013-02-01"):
        wanted = [file for file in everything if (file.partition or "") >= since]
        assert source.files(since) == wanted


def test_from_a_partition_on_no_folder_of_an_earlier_one_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 29):
        deliver(tmp_path, f"sales/2013-01-{number:02}/part-1.csv")
    listed: list[str] = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path.name) or listdir(path))
    assert len(LocalFiles(tmp_path, spec("sales/{partition}/*.csv")).files("2013-01-27")) == 2
    assert sorted(listed) == ["2013-01-27", "2013-01-28", "sales"]


def test_in_a_folder_of_many_datasets_the_names_of_others_are_not_told(tmp_path: Path) -> None:
    for name in ("2013-01-31.csv", "2013-02-30.csv", "planes.parquet", "archive/2013-01-01.csv"):
        deliver(tmp_path, name)
    ignored = Ignored()
    assert len(LocalFiles(tmp_path, spec("{partition}.csv")).files(None, ignored)) == 1
    assert ignored.reasons == {
        "of no partition (write it as 2013-01-01)": (1, ["'2013-02-30.csv'"])
    }


def test_a_name_that_cannot_be_followed_is_ignored_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "sales"
    deliver(tmp_path, f"sales/{DAY}.csv")
    deliver(tmp_path, "2013-02-01.csv")
    (folder / "2013-02-02.csv").symlink_to(folder / "nothing.csv")
    (folder / "2013-02-03.csv").symlink_to(folder / "2013-02-03.csv")
    Path(os.fsdecode(bytes(folder) + b"/2013-02-0\xff.csv")).write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    ignored = Ignored()
    files = LocalFiles(tmp_path, spec()).files(None, ignored)
    assert [file.partition for file in files] == [DAY]
    assert ignored.reasons == {
        "above its folder": (1, ["'2013-02-01.csv'"]),
        "a link to nothing": (1, ["'sales/2013-02-02.csv'"]),
        "not reachable: Too many levels of symbolic links": (1, ["'sales/2013-02-03.csv'"]),
        "not named in UTF-8": (1, [r"'sales/2013-02-0\udcff.csv'"]),
    }
    ignored = Ignored()
    assert LocalFiles(tmp_path, spec("loop/{partition}.csv")).files(None, ignored) == []
    assert "'loop'" in str(ignored)


def test_a_file_without_permission_is_ignored_until_it_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(tmp_path, f"sales/{DAY}.csv")
    ignored, source = Ignored(), LocalFiles(tmp_path, spec())
    monkeypatch.setattr(os, "access", lambda *_: False)  # a test may run as root
    assert source.files(None, ignored) == []
    assert list(ignored.reasons) == ["without permission to read"]
    monkeypatch.undo()
    assert len(source.files()) == 1
