"""The commands that experiments run."""

import subprocess

import pytest

from procbench.errors import InvalidInputError
from procbench.experiments.workload import read_workload, standard_library_workload


def test_the_same_seed_draws_the_same_commands(tmp_path):
    assert standard_library_workload(30, tmp_path, seed=3) == standard_library_workload(30, tmp_path, seed=3)
    assert standard_library_workload(30, tmp_path, seed=3) != standard_library_workload(30, tmp_path, seed=4)


def test_a_smaller_batch_is_the_beginning_of_a_larger_one(tmp_path):
    many = standard_library_workload(30, tmp_path)
    assert many.first(9) == standard_library_workload(9, tmp_path)


def test_every_kind_of_command_succeeds_and_writes_into_the_scratch_folder_alone(tmp_path):
    workload = standard_library_workload(6, tmp_path)
    assert len({command[0] for command in workload.commands}) == 3
    for command in workload.commands:
        assert subprocess.run(command, stdout=subprocess.DEVNULL, cwd=tmp_path).returncode == 0
    assert len(list(tmp_path.iterdir())) == 2
    assert {path.suffix for path in tmp_path.iterdir()} == {".pyc"}


def test_a_program_that_is_not_installed_is_left_out_and_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    workload = standard_library_workload(4, tmp_path)
    assert len(workload.commands) == 4
    assert [note.split()[0] for note in workload.notes] == ["gzip", "sha256sum"]


def test_a_workload_has_at_least_one_command(tmp_path):
    with pytest.raises(InvalidInputError, match="at least 1"):
        standard_library_workload(0, tmp_path)


def test_own_commands_are_quoted_as_for_a_shell_and_never_see_one(tmp_path):
    file = tmp_path / "commands"
    file.write_text("gzip -c 'my file'\n\n  echo $HOME; \"a b\" > c  # d\n")
    assert read_workload(file).folder == tmp_path
    assert read_workload(file).commands == (
        ("gzip", "-c", "my file"),
        ("echo", "$HOME;", "a b", ">", "c", "#", "d"),
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no line with a command"),
        (b" \n\n", "no line with a command"),
        (b"true\necho 'open\n", "line 2: no closing quotation"),
        (b"true\nfalse\necho a\0b\n", "line 3: .*NUL"),
    ],
)
def test_commands_that_cannot_be_read_are_refused_with_file_and_line(tmp_path, content, words):
    file = tmp_path / "commands"
    file.write_bytes(content)
    with pytest.raises(InvalidInputError, match=words) as caught:
        read_workload(file)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InvalidInputError, match="nowhere: No such file"):
        read_workload(tmp_path / "nowhere")
