"""Lines become commands as a shell would split them, no shell sees them, and a bad line is named before anything runs."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procbench.errors import InvalidInputError
from procbench.scheduling.commands import command_lines, each_argument, read_batch, shell_words
from procbench.scheduling.grouping import LONGEST_ARGUMENT
from procbench.scheduling.shown import line_without_secrets, without_secrets
from procbench.views.terminal import one_line

words = st.text(st.characters(exclude_characters="\0\n", exclude_categories=["Cs"]), max_size=12)
argvs = st.lists(words, min_size=1, max_size=4).filter(lambda argv: argv[0] != "")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that hypothesis may write to again and again."""
    return tmp_path_factory.mktemp("lines")


def written(folder: Path, content: bytes) -> str:
    """Return the path of a file with that content."""
    path = folder / "lines.txt"
    path.write_bytes(content)
    return str(path)


@given(commands=st.lists(argvs, min_size=1, max_size=4))
def test_what_shlex_joined_comes_back(shelf: Path, commands: list[list[str]]):
    """Every argv that shlex.join wrote on a line comes back word for word."""
    text = "\n".join(map(shlex.join, commands))
    assert command_lines(written(shelf, os.fsencode(text))) == commands


@given(arguments=st.lists(words.filter(bool), min_size=1, max_size=4))
def test_an_argument_line_is_one_argument(shelf: Path, arguments: list[str]):
    """Quotes, blanks, hashes and semicolons in a line of --each mean nothing."""
    source = written(shelf, os.fsencode("\n".join(arguments) + "\n"))
    assert each_argument(["echo"], source) == [["echo", argument] for argument in arguments]


def test_comments_and_blank_lines_are_passed_over(tmp_path: Path):
    """A file of commands may be commented; a hash inside a word stays."""
    source = written(tmp_path, b"# first\n\n  \t\r\n  # more\necho a#b '#c'\r\n")
    assert command_lines(source) == [["echo", "a#b", "#c"]]


def test_nothing_is_expanded(tmp_path: Path):
    """Pipes, variables and globs are arguments like any other."""
    assert command_lines(written(tmp_path, b"echo $HOME *|cat;`x`")) == [["echo", "$HOME", "*|cat;`x`"]]


def test_braces_are_replaced_wherever_they_stand(tmp_path: Path):
    """Each {} becomes the line, also inside a word and more than once; without one the line comes last."""
    source = written(tmp_path, b"a {}\n\nb")
    assert each_argument(["cp", "{}", "out/{}.{}"], source) == [
        ["cp", "a {}", "out/a {}.a {}"],
        ["cp", "b", "out/b.b"],
    ]
    assert each_argument(["gzip", "-k"], source) == [["gzip", "-k", "a {}"], ["gzip", "-k", "b"]]


def test_a_name_that_is_no_text_comes_through(tmp_path: Path):
    """Bytes that are no UTF-8, as file names may hold them, reach the command unchanged."""
    ((_, argument),) = each_argument(["cat"], written(tmp_path, b"caf\xe9\n"))
    assert os.fsencode(argument) == b"caf\xe9"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"true\necho 'a\n", "line 2: no closing quotation"),
        (b"true\n\necho \\", "line 3: no escaped character"),
        (b"echo a\0b\n", "line 1: it holds a NUL"),
        (b"''\n", "line 1: the command's first word"),
        (b"\n# nothing\n", "nothing to run"),
        (b"", "nothing to run"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: bytes, said: str):
    """File and line stand in the message."""
    source = written(tmp_path, content)
    with pytest.raises(InvalidInputError, match=said) as caught:
        command_lines(source)
    assert source in str(caught.value)


def test_nul_ends_arguments_when_asked(tmp_path: Path):
    """With null a line end is a part of the argument, and the last NUL may be missing."""
    assert each_argument(["x"], written(tmp_path, b"a\nb\0\0c"), null=True) == [["x", "a\nb"], ["x", "c"]]


def test_a_byte_order_mark_is_no_part_of_the_program(tmp_path: Path):
    """Windows editors begin files with one."""
    assert command_lines(written(tmp_path, b"\xef\xbb\xbfecho a\n")) == [["echo", "a"]]


def test_the_longest_argument_passes(tmp_path: Path):
    """A line as long as Linux takes is whole, also across chunks; one byte more is refused."""
    line = b"x" * LONGEST_ARGUMENT
    assert each_argument(["x"], written(tmp_path, line + b"\ny")) == [["x", line.decode()], ["x", "y"]]
    with pytest.raises(InvalidInputError, match="line 2 is longer"):
        each_argument(["x"], written(tmp_path, b"y\n" + line + b"x\n"))


def test_what_to_run_must_be_clear():
    """No command, two kinds of commands, and an empty program are refused."""
    for command, each, commands in (([], None, None), (["x"], None, "-"), ([], "a", "-"), ([""], None, None)):
        with pytest.raises(InvalidInputError):
            read_batch(command, each, commands)


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("Authorization: Bearer abc", "Authorization: ***"),
        ("--apikey=abc", "--apikey=***"),
        ("https://me:word@host/x?token=abc&y=1", "https://***@host/x?token=***&y=1"),
        ("https://host/path?q=key", "https://host/path?q=key"),
        ("X-Api-Key: abc", "X-Api-Key: ***"),
        ("a@b.example", "a@b.example"),
        ('{"user": "me", "password": "abc"}', '{"user": "me", "password": "***"}'),
        ("ghp_" + "a1" * 18, "***"),
        ("AKIA" + "A1" * 8, "***"),
        ("https://host/x?sig=abc", "https://host/x?sig=***"),
        ("Cookie: session=abc", "Cookie: ***"),
        ("--auth=abc", "--auth=***"),
        ("--pw=abc", "--pw=***"),
        ("--author=me", "--author=me"),
    ],
)
def test_a_secret_that_a_text_announces_is_hidden(argument: str, shown: str):
    assert without_secrets(["curl", argument]) == ["curl", shown]


def test_secrets_are_hidden_before_a_command_is_recorded():
    """What is called a token, secret, password or key loses its value; the rest stays."""
    argv = ["curl", "--token=abc", "API_KEY=abc", "--password", "abc", "-o", "monkey=x", "http://x/?token=1"]
    hidden = ["curl", "--token=***", "API_KEY=***", "--password", "***", "-o", "monkey=x"]
    assert without_secrets(argv)[:7] == hidden


@pytest.mark.parametrize(
    ("argvs", "says"),
    [
        ([["true"], ["echo", "hi", ">", "out"]], "command 2 has the word '>'"),
        ([["a", "&&", "b"]], "command 1 has the word '&&'"),
        ([["sh", "-c", "a | b"], ["echo", "a|b"], ["bash", "x", ";"], ["find", ".", ";"]], ""),
    ],
)
def test_words_that_only_a_shell_understands_are_pointed_out(argvs: list[list[str]], says: str):
    warning = shell_words(argvs)
    assert warning.startswith(says)
    assert bool(warning) is bool(says)


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["curl", "-u", "admin:abc", "http://x"], ["curl", "-u", "admin:***", "http://x"]),
        (["gpg", "--passphrase", "abc"], ["gpg", "--passphrase", "***"]),
        (["/usr/bin/mysql", "-pabc", "base"], ["/usr/bin/mysql", "-p***", "base"]),
        (["sshpass", "-p", "abc", "ssh"], ["sshpass", "-p", "***", "ssh"]),
        (["mkdir", "-p", "abc"], ["mkdir", "-p", "abc"]),
        (["ffmpeg", "-pass", "1"], ["ffmpeg", "-pass", "1"]),
        (["chown", "-u", "me"], ["chown", "-u", "me"]),
    ],
)
def test_a_password_behind_an_option_is_hidden(argv: list[str], shown: list[str]):
    assert without_secrets(argv) == shown
    assert line_without_secrets(shlex.join(argv)) == shlex.join(shown)


@given(text=st.text())
def test_one_line_never_moves_the_cursor(text: str):
    """R14: whatever text comes, what is shown is one line of printable characters."""
    assert one_line(text).isprintable()


def test_escape_sequences_are_taken_out():
    """R14: titles, colours and cursor movements vanish; line breaks and turned writing become visible."""
    assert one_line("a\x1b[31mb\x1b]0;owned\x07c\x1b[2Jd\ne\u202ef\udcff") == "abcd\\ne\\u202ef\\udcff"
    assert one_line("x" * 9, longest=4) == "xxx…"
