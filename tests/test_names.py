"""File names from any text: always inside the folder, always one name per text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from procbench.errors import InvalidInputError
from procbench.lab.names import safe_name

texts = st.text(max_size=400) | st.text(alphabet="./\\ab-\0~$CON", max_size=20)


@given(texts)
@example("../../x")
@example("/etc/passwd")
@example("a\0b")
@example("x" * 300)
@example("CON")
@example("con")
@example("con.txt")
@example("-rf")
@example("")
@example(".")
@example("..")
@example("~root")
@example("a b\n<script>")
@example("\ud800")
@example("é")
def test_a_name_always_stays_inside_its_folder(text: str):
    """R13: whatever the text, the result is one plain, short path component that no tool takes for an option."""
    name = safe_name(text)
    root = Path("/root-of-all/reports")
    assert (root / name).resolve().parent == root
    assert name.isascii()
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    assert name[0].isalnum()
    assert len(name) <= 72
    assert name.split(".")[0] not in {"con", "nul", "com1"}


@given(texts, texts)
@example("a b", "a-b")
@example("A", "a")
@example("a b", safe_name("a b"))
@example("x" * 300, "x" * 301)
def test_two_texts_never_share_a_name(one: str, other: str):
    """R13: a slug that lost something carries a hash of what it was, and no plain word can pose as one."""
    assert (safe_name(one) == safe_name(other)) == (one == other)


@pytest.mark.parametrize("word", ["spawn", "42_stealing", "work-stealing", "a"])
def test_a_plain_word_stays_as_it_is(word: str):
    """The usual names are their own file names."""
    assert safe_name(word) == word


def test_an_altered_name_can_still_be_read():
    """A person recognises what they typed."""
    assert safe_name("Größe der Pipe").startswith("groe-der-pipe-")


@pytest.mark.parametrize("value", [None, 7, b"x", Path("x")])
def test_what_is_no_text_is_refused(value: object):
    """A number or path is a mistake, not a name."""
    with pytest.raises(InvalidInputError):
        safe_name(value)  # type: ignore[arg-type]
