"""What type checkers know of the messages of a connection."""

from __future__ import annotations

from types import GenericAlias
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Generic

    from typing_extensions import TypeVar

    BytesLike = bytes | bytearray | memoryview

    #: What is received: without a codec, text and binary messages.
    In = TypeVar("In", default=str | bytes)
    #: What is sent.
    Out = TypeVar("Out", default=str | BytesLike)

    class Typed(Generic[In, Out]):
        """Has types for what is received and what is sent."""
else:
    # Type variables have defaults since Python 3.13.
    In = Out = None

    class Typed:
        """Has types for what is received and what is sent."""

        __slots__ = ()
        __class_getitem__ = classmethod(GenericAlias)
