"""Which way a child's input goes: by name, or by what the source and its size make worth it.

A *transport* names the way the bytes go. Handing over needs a child that is still to be started; the other ways need a pipe:

=============== =================================== ===================================================================
transport       source                              what happens
=============== =================================== ===================================================================
``memfd_stdin`` a sealed memfd, to its end          the child's standard input *is* the memfd; nothing is sent at all
``file_stdin``  a file, to its end                  the same with a file; what others write to it the child may see
``vmsplice``    anonymous memory, immutable bytes   its pages stand in the pipe; lent until nobody can read them any more
``splice``      a memfd or file                     pages of the page cache stand in the pipe
``sendfile``    a memfd or file                     the same, asked for in another way
``write``       anything                            copied into the pipe
=============== =================================== ===================================================================

``auto`` takes the first of them that the source and its size make worth it. Measured with ``procbench.experiments.transfer``
on two cores and Linux 6.18 with a pipe of 1 MiB, the child's start and end included: against ``write``, ``vmsplice`` was 0.97
times as fast for 64 KiB, 1.03 for 512 KiB, 1.3 for 4 MiB and 2.2 for 32 MiB; ``memfd_stdin`` 1.03, 1.1, 1.1 and 1.6. So memory
is lent from 512 KiB on. A pipe of 1 MiB instead of 64 KiB made ``vmsplice`` of 16 MiB twice as fast, and ``write`` 1.2 times.
"""

from __future__ import annotations

from typing import Any, Final, Literal, cast, get_args

from procbench import linux
from procbench.errors import InvalidInputError
from procbench.memory.feed import Feed, PipeTransport
from procbench.memory.mapping import MemoryMapping

Transport = Literal["auto", "write", "vmsplice", "splice", "sendfile", "memfd_stdin", "file_stdin"]
TRANSPORTS: Final[tuple[Transport, ...]] = get_args(Transport)

HANDED_OVER: Final = frozenset({"memfd_stdin", "file_stdin"})
"""The ways on which the source itself becomes the child's standard input."""

Source = MemoryMapping | bytes | bytearray | memoryview
"""What can be sent: a mapping, or anything that holds bytes."""

PIPE_BYTES: Final = 1 << 20
"""Size asked for when much is to go through a pipe; more than this only root may have."""

# Below these sizes the copy costs less than lending pages, or than asking the kernel for a larger pipe.
_LEND_FROM_BYTES: Final = 512 * 1024
_ENLARGE_FROM_BYTES: Final = linux.PIPE_DEFAULT_BYTES


def choose(source: Source, transport: Transport = "auto", *, can_hand_over: bool) -> Transport:
    """Return the way that ``source`` will take.

    Args:
        source: What is to be sent.
        transport: The way asked for; ``auto`` for the best that the source allows.
        can_hand_over: Whether the child is still to be started, so that its standard input can be anything.

    Raises:
        InvalidInputError: There is no such transport, or the source or the child does not allow it.
    """
    if transport not in TRANSPORTS:
        raise InvalidInputError(f"there is no transport {transport!r}; there are: {', '.join(TRANSPORTS)}")
    if not isinstance(source, MemoryMapping):
        bytes_of(source)
    possible = _possible(source, can_hand_over)
    if transport == "auto":
        return possible[0] if possible[0] != "vmsplice" or len(source) >= _LEND_FROM_BYTES else "write"
    if transport not in possible:
        what = source.kind if isinstance(source, MemoryMapping) else type(source).__name__
        raise InvalidInputError(
            f"transport {transport!r} does not work for this source ({what}) and child; what works: {', '.join(possible)}"
        )
    return transport


def prefer(source: Source, transport: Transport) -> Transport:
    """Return the way that a source takes to a child that is still to be started, if ``transport`` is a wish for many sources.

    One that this source does not allow becomes ``write``, which all of them do.

    Raises:
        InvalidInputError: There is no such transport.
    """
    allowed = transport == "auto" or transport not in TRANSPORTS or transport in _possible(source, True)
    return choose(source, transport if allowed else "write", can_hand_over=True)


def _possible(source: Source, can_hand_over: bool) -> list[Transport]:
    """Return the ways that a source can go, the best first."""
    ways: list[Transport] = []
    if isinstance(source, MemoryMapping):
        if source.fd is not None:
            # What a child has in hands it could open for writing, so a memfd is handed over only when it is sealed.
            if can_hand_over and source.to_end and source.sealed:
                ways.append("memfd_stdin" if source.kind == "memfd" else "file_stdin")
            ways += ["splice", "sendfile"]
        if source.fd is None and (source.kind == "anonymous" or source.immutable):
            ways.append("vmsplice")
    elif isinstance(source, bytes):
        ways.append("vmsplice")
    return [*ways, "write"]


def pipe_size_for(size_bytes: int, pipe_size_bytes: int | None) -> int | None:
    """Return the pipe size to ask for; ``None`` to leave the pipe as it is."""
    if pipe_size_bytes is not None:
        return pipe_size_bytes
    return PIPE_BYTES if size_bytes > _ENLARGE_FROM_BYTES else None


def bytes_of(source: Any) -> memoryview:
    """Return a view of an object's bytes, without copying them.

    Raises:
        InvalidInputError: It holds none, or not one after another.
    """
    try:
        view = memoryview(source)
        return view.cast("B") if view.nbytes else memoryview(b"")
    except (TypeError, ValueError) as error:  # the last where it is a view that was released
        raise InvalidInputError(
            f"a source of type {type(source).__name__} holds no contiguous bytes ({error}); give bytes or a MemoryMapping"
        ) from error


def feed(fd: int, source: Source, transport: Transport, pipe_size_bytes: int | None = None) -> Feed:
    """Return the ``Feed`` that sends ``source`` into the pipe ``fd`` by one of the ways through a pipe; it owns ``fd``."""
    piece = source if isinstance(source, MemoryMapping) else bytes_of(source)
    return Feed(fd, piece, cast(PipeTransport, transport), pipe_size_for(len(piece), pipe_size_bytes))
