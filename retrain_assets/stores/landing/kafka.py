"""Kafka as a source: a topic's messages as lines, read from offsets that the caller knows.

No consumer group is joined and no offset is committed. Only values are read; keys and headers are
not. Not here: where the lines go, and where to go on after them.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar, cast

from retrain_assets.errors import PermanentError, mask
from retrain_assets.stores.landing.topic import file_name, line_of

try:
    from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
except ImportError as error:
    raise RuntimeError("confluent-kafka is missing: pip install 'retrain-assets[kafka]'") from error

_Answer = TypeVar("_Answer")
_TICK_SECONDS = 0.5
# The library's public names, with an underscore since Kafka itself has no such errors.
_END, _OUT_OF_RANGE = KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET  # noqa: SLF001
_NO_BROKER = KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001
_DEFAULTS = {
    "group.id": "retrain-land",  # the library asks for one
    "isolation.level": "read_committed",
    "auto.offset.reset": "error",
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "queued.max.messages.kbytes": 2**15,
    "fetch.max.bytes": 2**25,
    "log_level": 0,
}
_SECRETS = ("sasl.username", "sasl.password", "ssl.key.password")
_SETTINGS = (
    *("security.protocol", "sasl.mechanism", "group.id", *_SECRETS),
    *("ssl.ca.location", "ssl.certificate.location", "ssl.key.location"),
)


class OffsetsGoneError(PermanentError):
    """The brokers do not have the offset that is to be read next."""


class Read(NamedTuple):
    """A message, or the end of a topic partition.

    Args:
        partition: Its number.
        offset: Of the message; or where the topic partition ends.
        line: The message as a line of JSONL; None at the end.
    """

    partition: int
    offset: int
    line: bytes | None


class Topic:
    """A topic as the brokers have it.

    Args:
        name: Its name.
        brokers: `host:port`, several separated by commas.
        environment: `KAFKA_SECURITY_PROTOCOL`, `KAFKA_SASL_USERNAME`, `KAFKA_SASL_PASSWORD` and so
            on are read; no message repeats a user or a password.
        wait_seconds: How long to wait for the brokers to answer.

    Raises:
        ValueError: A setting in the environment is wrong.
    """

    def __init__(
        self, name: str, brokers: str, environment: Mapping[str, str], wait_seconds: float
    ) -> None:
        self._name, self._brokers, self._wait = name, brokers, wait_seconds
        self._trouble, self._down = "", False
        self._pending: Read | None = None
        settings = _settings(environment)
        self._secrets = dict.fromkeys((settings.get(key, "") for key in _SECRETS), "***")
        fixed = {"bootstrap.servers": brokers, "error_cb": self._note}
        try:
            self._consumer = Consumer(_DEFAULTS | settings | fixed)
        except KafkaException as error:
            text = f"KAFKA_… in the environment: {error.args[0].str()}"
            raise ValueError(mask(text, self._secrets)) from None

    def close(self) -> None:
        """Leave the brokers."""
        self._consumer.close()

    def partitions(self) -> list[int]:
        """Return the numbers of its partitions.

        Raises:
            RuntimeError: There is no such topic, or no broker answers.
        """
        metadata = self._ask(lambda: self._consumer.list_topics(self._name, self._wait))
        topic = metadata.topics[self._name]
        if topic.error is not None:
            raise self._error(topic.error)
        return sorted(topic.partitions)

    def follow(self, offsets: Mapping[int, int | None]) -> dict[int, tuple[int, int]]:
        """Read topic partitions from an offset on; from their earliest where it is None.

        Returns:
            That offset, and the one past the latest that there is now.

        Raises:
            OffsetsGoneError: The brokers do not have one of the offsets.
        """
        ranges = {}
        # All are asked for before any is read: a broker answers only after a fetch that waits.
        for partition, offset in offsets.items():
            earliest, end = self._available(partition, offset)
            ranges[partition] = (earliest if offset is None else offset, end)
        begin = [TopicPartition(self._name, at, first) for at, (first, _) in ranges.items()]
        self._consumer.incremental_assign(begin)
        return ranges

    def poll(self, seconds: float) -> Read | None:
        """Return the next message or end of a topic partition; None if none comes soon.

        Raises:
            OffsetsGoneError: The brokers have deleted what was to be read.
            RuntimeError: The brokers refuse, or none answers.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            return pending
        message = self._consumer.poll(min(seconds, _TICK_SECONDS))
        if self._down:
            self._down = False
            self.partitions()
        if message is None:
            return None
        error = message.error()
        partition, offset = cast("tuple[int, int]", (message.partition(), message.offset()))
        if error is None:
            return Read(partition, offset, line_of(message.value()))
        if error.code() == _END:
            return Read(partition, offset, None)
        if error.code() == _OUT_OF_RANGE:
            self._available(partition, offset)
        raise self._error(error)

    def put_back(self, read: Read) -> None:
        """Return a message to the front, so that the next poll gives it."""
        self._pending = read

    def end(self, partition: int) -> int:
        """Return the offset past the latest by the brokers' last answer; negative before that."""
        at = TopicPartition(self._name, partition)
        return self._ask(lambda: self._consumer.get_watermark_offsets(at, cached=True))[1]

    def _available(self, partition: int, offset: int | None) -> tuple[int, int]:
        """Return the earliest offset that the brokers have, and the one past the latest."""
        at = TopicPartition(self._name, partition)
        earliest, end = self._ask(lambda: self._consumer.get_watermark_offsets(at, self._wait))
        if offset is None or earliest <= offset <= end:
            return earliest, end
        advice = "is this another topic of that name?"
        if offset < earliest:
            name = file_name(self._name, partition, offset, earliest - 1)
            advice = f"if the messages are lost, a file {name} with one line that says so goes on"
        text = (
            f"topic {self._name}, partition {partition}: offset {offset} is to be landed next, but "
            f"the earliest there is {earliest} and the end {end}; {advice}"
        )
        raise OffsetsGoneError(mask(text, self._secrets))

    def _ask(self, request: Callable[[], _Answer | None]) -> _Answer:
        try:
            answer = request()
        except KafkaException as error:
            # Polling serves the callbacks that tell what was wrong with the connection.
            self._consumer.poll(0)
            raise self._error(error.args[0]) from None
        if answer is None:
            text = f"{self._brokers}: no answer in {self._wait:g} s"
            raise RuntimeError(mask(text, self._secrets))
        return answer

    def _error(self, error: KafkaError) -> RuntimeError:
        trouble = f" (waited {self._wait:g} s; {self._trouble})" if self._trouble else ""
        text = f"topic {self._name} at {self._brokers}: {error.str()}{trouble}"
        return RuntimeError(mask(text, self._secrets))

    def _note(self, error: KafkaError) -> None:
        if error.code() == _NO_BROKER:
            self._down = True
        else:
            self._trouble = error.str()


def _settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the security settings; a password is sent unencrypted only if a setting says so."""
    values = {key: environment.get(f"KAFKA_{key.upper().replace('.', '_')}") for key in _SETTINGS}
    settings = {key: value for key, value in values.items() if value}
    secure = {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN"}
    return (secure if "sasl.username" in settings else {}) | settings
