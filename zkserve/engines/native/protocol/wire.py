# ruff: noqa: D102 - what read and write do stands once, at Form.
"""The byte form of records: fixed-width big-endian integers, and lists whose items have a length.

A form reads what it writes and nothing else, so equal values have equal bytes and the reverse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

from zkserve.errors import InvalidInput


class DescriptionInvalid(InvalidInput):
    """A native circuit description is malformed or describes what the protocol forbids."""

    code: ClassVar[str] = "description-invalid"


class Reader:
    """Bytes that are read from front to back; ``name`` says in errors what they are."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._at = 0
        self._name = name

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes.

        Raises:
            DescriptionInvalid: there are fewer.

        """
        data = self._data[self._at : self._at + size]
        if len(data) != size:
            raise DescriptionInvalid(f"{self._name} ends {size - len(data)} bytes too early.")
        self._at += size
        return data

    def part(self, form: Form, name: str) -> Any:
        """Return a value that has its length in front and fills it exactly.

        Raises:
            DescriptionInvalid: it is shorter or longer, or not of that form.

        """
        reader = Reader(self.take(U32.read(self)), name)
        value = form.read(reader)
        reader.end()
        return value

    def end(self) -> None:
        """Refuse bytes that nobody has read."""
        left = len(self._data) - self._at
        if left:
            raise DescriptionInvalid(f"{self._name} has {left} bytes too many.")


class Form(Protocol):
    """How values of one kind are written."""

    def read(self, reader: Reader) -> Any:
        """Return the value at the front of ``reader``."""
        ...

    def write(self, value: Any) -> bytes:
        """Return the bytes of a value."""
        ...


class Unsigned:
    """An integer of ``size`` bytes; one that does not fit raises ``OverflowError``."""

    def __init__(self, size: int) -> None:
        self._size = size

    def read(self, reader: Reader) -> int:
        return int.from_bytes(reader.take(self._size), "big")

    def write(self, value: int) -> bytes:
        return value.to_bytes(self._size, "big")


class Flag:
    """One byte, 0 or 1."""

    def read(self, reader: Reader) -> bool:
        value = reader.take(1)[0]
        if value > 1:
            raise DescriptionInvalid(f"A flag is 0 or 1; got {value}.")
        return bool(value)

    def write(self, value: bool) -> bytes:
        return bytes([value])


class Fixed:
    """An integer that can have one value only, and so carries nothing."""

    def __init__(self, size: int, value: int, name: str) -> None:
        self._bytes = value.to_bytes(size, "big")
        self._name = name

    def read(self, reader: Reader) -> None:
        data = reader.take(len(self._bytes))
        if data != self._bytes:
            raise DescriptionInvalid(
                f"The {self._name} is {int.from_bytes(self._bytes, 'big')}; "
                f"got {int.from_bytes(data, 'big')}."
            )

    def write(self, _value: None) -> bytes:
        return self._bytes


class Blob:
    """``size`` bytes."""

    def __init__(self, size: int) -> None:
        self._size = size

    def read(self, reader: Reader) -> bytes:
        return reader.take(self._size)

    def write(self, value: bytes) -> bytes:
        if len(value) != self._size:
            raise OverflowError(f"expected {self._size} bytes, got {len(value)}")
        return value


class Many:
    """A list: how many, then each item with its length."""

    def __init__(self, item: Form, name: str) -> None:
        self._item = item
        self._name = name

    def read(self, reader: Reader) -> tuple[Any, ...]:
        return tuple(reader.part(self._item, self._name) for _ in range(U32.read(reader)))

    def write(self, value: Sequence[Any]) -> bytes:
        return U32.write(len(value)) + b"".join(with_length(self._item.write(i)) for i in value)


class Record:
    """The attributes of an object one after the other; ``Fixed`` ones are no attributes."""

    def __init__(self, make: Callable[..., Any], **fields: Form) -> None:
        self._make = make
        self._fields = fields

    def read(self, reader: Reader) -> Any:
        values = {name: form.read(reader) for name, form in self._fields.items()}
        return self._make(
            **{name: v for name, v in values.items() if not isinstance(self._fields[name], Fixed)}
        )

    def write(self, value: Any) -> bytes:
        return b"".join(
            form.write(getattr(value, name, None)) for name, form in self._fields.items()
        )


def with_length(data: bytes) -> bytes:
    """Return ``data`` with its length as four bytes in front."""
    return U32.write(len(data)) + data


U8, U16, U32, FLAG = Unsigned(1), Unsigned(2), Unsigned(4), Flag()
