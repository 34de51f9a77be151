"""Thrift's compact protocol, as far as parquet uses it: structs as dictionaries by field number.

Written for bytes that may be damaged or hostile: whatever they hold, it ends, and what it builds is
no larger than a fixed multiple of them. Not here: what the fields mean.

Source: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from typing import Any

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _, _STRUCT = range(1, 13)
_LONGEST_VARINT = 10


class ThriftError(ValueError):
    """These bytes are no such struct."""


class Compact:
    """Reads structs one after the other.

    Args:
        data: Bytes that hold them.

    """

    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    def struct(self) -> dict[int, Any]:
        """The next struct.

        Raises:
            ThriftError: There is none, or it is nested too deeply.
        """
        try:
            return self._struct()
        except (IndexError, RecursionError) as error:
            raise ThriftError("a header is cut short or nested without end") from error

    def _struct(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (_I16, _I32, _I64):
            return self._integer()
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind in (_LIST, _SET):
            head = self._byte()
            size = self._varint() if head >> 4 == 15 else head >> 4  # noqa: PLR2004 of the protocol
            return [self._value(head & 15) for _ in range(size)]
        if kind == _STRUCT:
            return self._struct()
        raise ThriftError(f"a header has a field of unknown type {kind}")

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _bytes(self, size: int) -> bytes:
        self.at += size
        if self.at > len(self.data):
            raise ThriftError("a header is cut short")
        return bytes(self.data[self.at - size : self.at])

    def _varint(self) -> int:
        data, begin, found = self.data, self.at, 0
        for place in range(_LONGEST_VARINT):
            byte = data[begin + place]
            found |= (byte & 127) << 7 * place
            if byte < 128:  # noqa: PLR2004 the highest bit says that more follows
                self.at = begin + place + 1
                return found
        raise ThriftError("a header has a number without end")

    def _integer(self) -> int:
        found = self._varint()
        return (found >> 1) ^ -(found & 1)
