"""A topic lands once, whole, and through kills; what the brokers lack or refuse is said.

The brokers are the mock cluster of librdkafka, on loopback and in this process; the writers that
are killed are processes of their own.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from click.testing import CliRunner
from confluent_kafka import KafkaError, Producer, cimpl

from retrain_assets import cli
from retrain_assets.cli import base
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.data.kafka import Bounds, Landed, land, stop_on_signals
from retrain_assets.stores.landing.kafka import OffsetsGoneError, Read, Topic
from retrain_assets.stores.landing.source import LocalFiles
from retrain_assets.stores.landing.topic import TopicFiles, file_name
from retrain_assets_tests.stores.landing.test_topic import dataset

FETCH, OUT_OF_RANGE = 1, 1


class Cluster:
    """A mock cluster of one broker, by the library's own C functions."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL(cimpl.__file__)
        for name in ("new", "conf_new", "mock_cluster_new", "mock_cluster_bootstraps"):
            getattr(self.lib, f"rd_kafka_{name}").restype = ctypes.c_void_p
        conf = ctypes.c_void_p(self.lib.rd_kafka_conf_new())
        self.lib.rd_kafka_conf_set(conf, b"log_level", b"0", None, ctypes.c_size_t(0))
        made = self.lib.rd_kafka_new(0, conf, None, ctypes.c_size_t(0))
        self.handle = ctypes.c_void_p(made)
        self.mock = ctypes.c_void_p(self.lib.rd_kafka_mock_cluster_new(self.handle, 1))
        found = ctypes.string_at(self.lib.rd_kafka_mock_cluster_bootstraps(self.mock))
        self.address = found.decode()

    def topic(self, name: str, partitions: int = 1) -> str:
        assert self.lib.rd_kafka_mock_topic_create(self.mock, name.encode(), partitions, 1) == 0
        return name

    def send(self, topic: str, values: list[bytes | None], partition: int = 0) -> None:
        producer = Producer({"bootstrap.servers": self.address})
        for value in values:
            producer.produce(topic, value, partition=partition)
        assert producer.flush(10) == 0

    def delete_before(self, topic: str, offset: int) -> None:
        call = self.lib.rd_kafka_mock_partition_delete_records
        assert call(self.mock, topic.encode(), 0, ctypes.c_int64(offset)) == 0

    def refuse_next_fetch(self, topic: str) -> None:
        call = self.lib.rd_kafka_mock_partition_push_request_errors
        one = ctypes.c_size_t(1)
        assert call(self.mock, topic.encode(), 0, ctypes.c_int16(FETCH), one, OUT_OF_RANGE) == 0

    def down(self) -> None:
        assert self.lib.rd_kafka_mock_broker_set_down(self.mock, 1) == 0

    def close(self) -> None:
        self.lib.rd_kafka_mock_cluster_destroy(self.mock)
        self.lib.rd_kafka_destroy(self.handle)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.close()


@dataclass
class Writer:
    """Lands a topic below a folder, in this process or in another."""

    root: Path
    address: str
    topic: str

    @property
    def files(self) -> TopicFiles:
        return TopicFiles(self.root, dataset(), self.topic)

    def land(self, stop: Event | None = None, **bounds: Any) -> Landed:
        bounds = {"once": True, "wait_seconds": 10} | bounds
        told: list[str] = []
        return land(self.files, self.address, {}, Bounds(**bounds), stop or Event(), told.append)

    def child(self, before: str, **bounds: Any) -> subprocess.Popen[str]:
        arguments = [str(self.root), self.address, self.topic, json.dumps(bounds)]
        return subprocess.Popen(
            [sys.executable, "-c", CHILD.format(before=before), *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )

    def names(self) -> list[str]:
        landed = LocalFiles(self.root, dataset()).files()
        return [Path(file.path).name for file in landed]

    def lines(self) -> list[bytes]:
        texts = [(self.root / "events" / name).read_bytes() for name in self.names()]
        return b"".join(texts).splitlines()


CHILD = """
import json, os, signal, sys
from pathlib import Path
from retrain_assets.steps.data.kafka import Bounds, land, stop_on_signals
from retrain_assets.stores.landing.kafka import Topic
from retrain_assets.stores.landing.topic import TopicFiles
from retrain_assets_tests.stores.landing.test_topic import dataset

def killed(owner, name, at):
    "The process kills itself when a function is called for the nth time."
    real, calls = getattr(owner, name), []
    def wrapped(*given):
        calls.append(given)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given)
    setattr(owner, name, wrapped)

def told(owner, name):
    "Each answer of a function is told to the parent."
    real = getattr(owner, name)
    def wrapped(*given):
        found = real(*given)
        if found is not None and found.line is not None:
            print(found.offset, flush=True)
        return found
    setattr(owner, name, wrapped)

root, address, topic, bounds = sys.argv[1:]
{before}
with stop_on_signals() as stop:
    files = TopicFiles(Path(root), dataset(), topic)
    land(files, address, {{}}, Bounds(**json.loads(bounds)), stop, lambda text: None)
"""


def values(count: int, start: int = 0) -> list[bytes | None]:
    return [f'{{"id": {number}, "day": "2013-01-01"}}'.encode() for number in range(start, count)]


@pytest.fixture
def writer(cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> Writer:
    """A topic of its own for each test, with one partition."""
    name = f"t{abs(hash(request.node.name)):x}"
    return Writer(tmp_path, cluster.address, cluster.topic(name))


def test_every_message_of_every_topic_partition_lands_once(
    cluster: Cluster, tmp_path: Path
) -> None:
    writer = Writer(tmp_path, cluster.address, cluster.topic("clicks-1.a", partitions=3))
    sent = values(90)
    for partition, count in ((0, 50), (2, 40)):
        start = 0 if partition == 0 else 50
        cluster.send(writer.topic, sent[start : start + count], partition)
    assert writer.land() == Landed(90, 2, {0: 50, 2: 40})
    assert writer.names() == [
        "clicks-1.a-0-00000000000000000000-00000000000000000049.jsonl",
        "clicks-1.a-2-00000000000000000000-00000000000000000039.jsonl",
    ]
    assert writer.land() == Landed(0, 0, {0: 50, 2: 40})
    more = values(100, 90)
    cluster.send(writer.topic, more, 1)
    assert writer.land(messages=4) == Landed(10, 3, {0: 50, 1: 10, 2: 40})
    assert sorted(writer.lines()) == sorted([*sent, *more])
    assert not list((tmp_path / "events").glob("*.part"))


@pytest.mark.parametrize(
    "point",
    [
        "killed(Topic, 'poll', 30)",  # within the second batch
        "killed(os, 'fsync', 1)",  # its file is written, but not to disk
        "killed(Path, 'rename', 2)",  # on disk, but without its name
        "killed(os, 'fsync', 4)",  # it has its name
    ],
)
def test_a_writer_that_is_killed_leaves_no_message_out_and_none_twice(
    cluster: Cluster, writer: Writer, point: str
) -> None:
    sent = values(50)
    cluster.send(writer.topic, sent)
    child = writer.child(point, messages=20, once=True)
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert len(writer.names()) < 3
    for name in writer.names():
        assert len((writer.root / "events" / name).read_bytes().splitlines()) == 20
    writer.land(messages=20)
    assert writer.lines() == sent
    assert not list((writer.root / "events").glob("*.part"))


def test_a_writer_told_to_stop_writes_what_it_has_read_and_was_the_only_one(
    cluster: Cluster, writer: Writer
) -> None:
    cluster.send(writer.topic, values(5))
    child = writer.child("told(Topic, 'poll')", messages=1000, seconds=3600)
    assert child.stdout is not None
    assert [int(child.stdout.readline()) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(RuntimeError, match=r"is being landed in .* by another process"):
        writer.land()
    assert writer.names() == []
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=60)
    assert child.returncode == 0
    assert writer.lines() == values(5)


def test_a_signal_is_heard_only_while_landing() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signals() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(5)
    assert signal.getsignal(signal.SIGINT) is before


def test_files_stay_below_what_the_reader_takes(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = dataset(read={"max_bytes": 100})
    cluster.send(cluster.topic("sized"), sent := [b"x" * n for n in (49, 49, 1, 300)])
    files = TopicFiles(tmp_path, spec, "sized")
    land(files, cluster.address, {}, Bounds(once=True), Event(), print)
    texts = [(tmp_path / file.path).read_bytes() for file in LocalFiles(tmp_path, spec).files()]
    assert [len(text) for text in texts] == [100, 2, 301]
    assert b"".join(texts).splitlines() == sent


def test_what_is_no_json_is_a_line_as_well(cluster: Cluster, writer: Writer) -> None:
    cluster.send(writer.topic, [None, b"", b"\xff\0", b'{"id":\n1}', b"a\nb"])
    assert writer.land().messages == 5
    assert writer.lines() == [
        b'"no value (tombstone)"',
        b'""',
        b'"base64:/wA="',
        b'{"id": 1}',
        rb'"a\nb"',
    ]


def test_offsets_without_a_message_are_covered_by_the_names(
    cluster: Cluster, writer: Writer
) -> None:
    producer = Producer({"bootstrap.servers": cluster.address, "transactional.id": "test"})
    producer.init_transactions(10)
    for start in (0, 2):
        producer.begin_transaction()
        for value in values(start + 2, start):
            producer.produce(writer.topic, value, partition=0)
        producer.commit_transaction(10)
        # Each commit leaves a marker, which is an offset of its own.
        assert writer.land().next == {0: {0: 3, 2: 6}[start]}
    assert writer.names() == [file_name(writer.topic, 0, 0, 2), file_name(writer.topic, 0, 3, 5)]
    assert writer.lines() == values(4)
    cluster.delete_before(writer.topic, 6)
    assert writer.land().messages == 0


def test_messages_that_are_deleted_before_they_land_are_never_skipped_unasked(
    cluster: Cluster, writer: Writer
) -> None:
    cluster.send(writer.topic, values(5))
    writer.land()
    cluster.send(writer.topic, values(60, 5))
    cluster.delete_before(writer.topic, 25)
    missing = file_name(writer.topic, 0, 5, 24)
    with pytest.raises(OffsetsGoneError) as caught:
        writer.land()
    assert f"topic {writer.topic}, partition 0: offset 5 is to be landed next" in str(caught.value)
    assert (
        f"earliest there is 25 and the end 60; if the messages are lost, a file {missing}"
        in str(caught.value)
    )
    assert len(writer.names()) == 1
    (writer.root / "events" / missing).write_text('"deleted before they landed"\n')
    assert writer.land().messages == 35
    assert writer.lines()[6:] == values(60, 25)


def test_a_topic_that_never_had_the_next_offset_is_another_one(
    cluster: Cluster, writer: Writer
) -> None:
    cluster.send(writer.topic, values(5))
    (writer.root / "events").mkdir()
    (writer.root / "events" / file_name(writer.topic, 0, 0, 9)).write_bytes(b"1\n")
    with pytest.raises(OffsetsGoneError, match=r"offset 10 .* the end 5; is this another topic"):
        writer.land()


def test_a_topic_partition_that_has_landed_is_missed(cluster: Cluster, writer: Writer) -> None:
    (writer.root / "events").mkdir()
    (writer.root / "events" / file_name(writer.topic, 7, 0, 9)).write_bytes(b"1\n")
    with pytest.raises(RuntimeError, match=f"topic {writer.topic} .*[Uu]nknown partition"):
        writer.land()


def test_a_topic_without_files_starts_at_its_earliest_message(
    cluster: Cluster, writer: Writer
) -> None:
    cluster.send(writer.topic, values(40))
    cluster.delete_before(writer.topic, 20)
    assert writer.land() == Landed(20, 1, {0: 40})
    assert writer.lines() == values(40, 20)


def at_the_end(monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]) -> None:
    """Something happens once the end of a topic partition is read."""
    real = Topic.poll

    def poll(self: Topic, seconds: float) -> Read | None:
        read = real(self, seconds)
        if read is not None and read.line is None:
            then()
        return read

    monkeypatch.setattr(Topic, "poll", poll)


def test_what_was_read_lands_though_what_follows_is_deleted(
    cluster: Cluster, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.send(writer.topic, values(3))

    def retention() -> None:
        cluster.refuse_next_fetch(writer.topic)
        cluster.send(writer.topic, values(8, 3))
        cluster.delete_before(writer.topic, 6)

    at_the_end(monkeypatch, retention)
    with pytest.raises(
        OffsetsGoneError, match=r"offset 3 .* the earliest there is 6 and the end 8"
    ):
        writer.land(once=False, seconds=3600)
    assert writer.lines() == values(3)


def test_what_was_read_lands_though_the_brokers_go_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster()
    writer = Writer(tmp_path, cluster.address, cluster.topic("t"))
    cluster.send("t", values(3))
    at_the_end(monkeypatch, cluster.down)
    with pytest.raises(RuntimeError, match=rf"topic t at {cluster.address}: .*waited 0\.5 s"):
        writer.land(once=False, seconds=3600, wait_seconds=0.5)
    assert writer.lines() == values(3)
    cluster.close()


def test_a_batch_is_bounded_in_time_and_a_new_topic_partition_is_followed_by_the_next(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path, cluster.address, cluster.topic("growing", partitions=2))
    for partition in (0, 1):
        cluster.send(writer.topic, values(2), partition)
    seen, stop, told = iter([[0]]), Event(), []
    real = Topic.partitions
    monkeypatch.setattr(Topic, "partitions", lambda topic: next(seen, None) or real(topic))

    def tell(text: str) -> None:
        told.append(text)
        if len(told) == 2:
            stop.set()

    bounds = Bounds(seconds=0.2, wait_seconds=10)
    assert land(writer.files, writer.address, {}, bounds, stop, tell) == Landed(4, 2, {0: 2, 1: 2})
    assert told == [f"growing: {count} messages landed, lag 0" for count in (2, 4)]


def test_no_topic_is_said_as_such(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=f"topic nope at {cluster.address}: .*[Uu]nknown topic"):
        Writer(tmp_path, cluster.address, "nope").land()


def test_a_full_disk_is_one_line_and_harms_nothing(
    cluster: Cluster, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.send(writer.topic, values(3))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(RuntimeError, match=f"topic {writer.topic} in .*: .*No space left"):
            writer.land()
    assert writer.names() == []
    writer.land()
    assert writer.lines() == values(3)


@contextmanager
def impostor(folder: Path) -> Iterator[tuple[str, bytearray]]:
    """A TLS server with a certificate nobody vouches for, and all that it is told."""
    pair = [str(folder / "key"), str(folder / "certificate")]
    made = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=127.0.0.1"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", pair[0], "-out", pair[1]]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair[1], pair[0])
    heard = bytearray()

    def serve() -> None:
        while True:
            try:
                taken, _ = listener.accept()
            except OSError:
                return
            with taken:
                try:
                    heard.extend(context.wrap_socket(taken, server_side=True).recv(1))
                except OSError:
                    continue

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", heard
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


SECRETS = {"KAFKA_SASL_USERNAME": "canary-user", "KAFKA_SASL_PASSWORD": "canary-word"}


def refusal(address: str, environment: dict[str, str]) -> str:
    with pytest.raises((RuntimeError, ValueError)) as caught:
        Topic("t", address, environment, 0.5).partitions()
    text = f"{caught.value!r} {caught.value.__cause__!r}"
    assert "canary" not in text
    return text


def test_a_user_is_told_to_no_server_that_is_not_vouched_for(tmp_path: Path) -> None:
    with impostor(tmp_path) as (address, heard):
        assert "certificate verify failed" in refusal(address, SECRETS)
        assert heard == b""
        trusted = {"KAFKA_SSL_CA_LOCATION": str(tmp_path / "certificate")}
        assert "certificate" not in refusal(address, SECRETS | trusted)
        assert heard != b""


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "telnet"}, "security.protocol"),
        ({"KAFKA_SASL_MECHANISM": "NONE"}, "Unsupported SASL mechanism"),
        ({"KAFKA_SASL_PASSWORD": ""}, "sasl.username and sasl.password must be set"),
        ({"KAFKA_SSL_CA_LOCATION": "/nowhere/ca.pem"}, "ssl.ca.location failed"),
    ],
)
def test_a_wrong_setting_is_named(environment: dict[str, str], said: str) -> None:
    text = refusal("127.0.0.1:1", SECRETS | environment)
    assert "KAFKA_… in the environment" in text
    assert said in text


def test_a_secret_is_masked_whoever_says_it() -> None:
    topic = Topic("canary-user", "canary-word:1", SECRETS, 0.5)
    with pytest.raises(RuntimeError, match=r"^topic \*\*\* at \*\*\*:1: ") as caught:
        topic.partitions()
    assert "canary" not in str(caught.value)
    # A slow name server makes the library say this instead, without the address.
    topic._note(KafkaError(KafkaError._RESOLVE, "Failed to resolve 'canary-word:1'"))
    for error in (
        KafkaError(KafkaError._TRANSPORT),
        KafkaError(KafkaError._RESOLVE, "canary-user"),
    ):
        assert "canary" not in str(topic._error(error))
    with pytest.raises(RuntimeError, match=r"^\*\*\*:1: no answer in 0.5 s$"):
        topic._ask(lambda: None)


def events(monkeypatch: pytest.MonkeyPatch, root: Path, spec: DatasetSpec) -> None:
    monkeypatch.setattr(base, "datasets", lambda: {"events": spec})
    monkeypatch.setenv("RETRAIN_STORAGE", str(root))
    monkeypatch.setenv("DAGSTER_HOME", str(root))


def test_the_command_lands_a_topic_and_says_so_in_json(
    cluster: Cluster, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    events(monkeypatch, writer.root, dataset())
    cluster.send(writer.topic, values(3))
    arguments = ["events", "--brokers", writer.address, "--topic", writer.topic, "--once"]
    done = CliRunner().invoke(cli.main, ["land", "kafka", *arguments, "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {
        "dataset": "events",
        "topic": writer.topic,
        "messages": 3,
        "files": 1,
        "next": {"0": 3},
    }
    assert done.stderr == f"{writer.topic}: 3 messages landed, lag 0\n"
    landed = writer.root / "landing" / "events" / file_name(writer.topic, 0, 0, 2)
    assert landed.read_bytes().splitlines() == values(3)
    again = CliRunner().invoke(cli.main, ["land", "kafka", *arguments])
    assert again.stdout == "events: 0 messages in 0 files\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nope", "--topic", "t"), "no dataset named 'nope'; there are events"),
        (("events", "--topic", "../t"), "topic '../t': a name has 1 to 190 of"),
        (("events", "--topic", "t"), "dataset events lands events/{partition}.jsonl: a topic"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    landing = "events/{partition}.jsonl" if arguments[-1] == "t" else "events/*.jsonl"
    events(monkeypatch, tmp_path, dataset(landing))
    done = CliRunner().invoke(cli.main, ["land", "kafka", *arguments, "--brokers", "127.0.0.1:1"])
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"Error: {said}")
    assert done.stderr.count("\n") == 1


def test_without_the_extra_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events(monkeypatch, tmp_path, dataset())
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    for name in ("retrain_assets.stores.landing.kafka", "retrain_assets.steps.data.kafka"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("retrain_assets.steps.data.kafka")
    command = ["land", "kafka", "events", "--brokers", "127.0.0.1:1", "--topic", "t"]
    done = CliRunner().invoke(cli.main, command)
    assert done.stderr == (
        "Error: confluent-kafka is missing: pip install 'retrain-assets[kafka]'\n"
    )
