"""I/O pools by name: made, found and removed whole, or left as they were."""

from __future__ import annotations

import pytest

from procbench.errors import BufferInUseError, InvalidInputError
from procbench.io.io_pools import BufferSizes, IoPool, IoPools

SMALL = BufferSizes(stdin=16, stdout=16, stderr=16)


@pytest.mark.parametrize("kind", ["read", "write"])
def test_a_pool_with_a_buffer_out_stays_whole(kind: str) -> None:
    """Whichever kind is out, neither is closed, and the pool can be used and closed later."""
    pools = IoPools()
    pool = pools.create("mine", SMALL, buffers=2)
    with getattr(pool, kind).acquire_nowait():
        with pytest.raises(BufferInUseError, match=f"1 buffers of {kind} buffers of mine are out"):
            pools.remove("mine")
        assert pools.find("mine") is pool
        for each in (pool.read, pool.write):
            each.acquire_nowait().release()
    pools.remove("mine")
    assert pools.names() == []
    pool.close()


def test_a_name_is_of_one_pool() -> None:
    """A second one of a name, one of no name, and one that is not there are refused."""
    pools = IoPools()
    pool = pools.create("mine", SMALL, buffers=2)
    for name in ("mine", "", 3):
        with pytest.raises(InvalidInputError):
            pools.create(name, SMALL, buffers=2)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="there are: mine"):
        pools.find("yours")
    with pytest.raises(InvalidInputError, match="there are: mine"):
        pools.remove("yours")
    assert pools.find("mine") is pool
    pools.remove("mine")
    with pytest.raises(InvalidInputError, match="none yet"):
        pools.remove("mine")


def test_a_size_is_a_whole_number_of_bytes() -> None:
    """Anything else names the stream that it was for."""
    for wrong in (0, -1, 1.5, True, None):
        with pytest.raises(InvalidInputError, match="stderr is"):
            BufferSizes(stderr=wrong)  # type: ignore[arg-type]
    assert BufferSizes(pipe=None).pipe is None
    with pytest.raises(InvalidInputError, match="pipe is 0"):
        BufferSizes(pipe=0)
    with pytest.raises(InvalidInputError):
        IoPool("empty", SMALL, buffers=0)
