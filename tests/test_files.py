"""Files that appear whole or not at all."""

import pytest

from rstg_jax import files
from rstg_jax.errors import UserError


def test_writers_of_the_same_file_do_not_meet(tmp_path):
    """They may be threads, or processes of equal number on two machines."""
    path = tmp_path / "index.json"
    with files.replacing(path) as a, files.replacing(path) as b:
        a.write_text("a")
        b.write_text("b")
        assert not path.exists()
    assert path.read_text() == "a"  # the last to finish
    assert [file.name for file in tmp_path.iterdir()] == ["index.json"]


def test_nothing_is_left_of_a_failure(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("before")
    with pytest.raises(RuntimeError), files.replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UserError, match="cannot write"):
        files.write_text(tmp_path / "none" / "out.txt", "text")


def test_texts_are_utf8_in_every_locale(tmp_path):
    files.write_text(tmp_path / "out.txt", "übung")
    assert (tmp_path / "out.txt").read_bytes() == "übung".encode()
