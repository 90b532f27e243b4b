"""Files that appear whole or not at all."""

import pytest

from rstg_jax import files
from rstg_jax.errors import UserError


def test_the_longest_names_can_be_written(tmp_path):
    for name in ("n" * 250 + ".json", "\u4e2d" * 83 + ".json"):
        files.write_json(tmp_path / name, 1)
        assert files.read_json(tmp_path / name) == 1


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a":\n]', r"a\.json: line 2: bad json \(Expecting value\)"),
        (b"[" * 100_000, r"a\.json: bad json \(maximum recursion"),
        (b"9" * 5000, r"a\.json: bad json \(Exceeds the limit"),
        (b'"\xff"', r"a\.json: is not UTF-8"),
    ],
)
def test_json_of_strangers(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        files.read_json(path)
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert files.read_json(path) == [1]
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory"):
        files.read_json(tmp_path)


def test_every_line_of_json_lines_is_read_or_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n[2]\n')
    assert files.read_json_lines(path) == [{"a": 1}, [2]]
    path.write_text('{"a": 1}\n\n[2')
    with pytest.raises(UserError, match=r"a\.jsonl: line 2: bad json"):
        files.read_json_lines(path)
    with pytest.raises(UserError, match=r"cannot read .*b\.jsonl: No such file"):
        files.read_json_lines(tmp_path / "b.jsonl")


def test_texts_are_utf8_in_every_locale(tmp_path):
    files.write_text(tmp_path / "out.txt", "übung")
    assert (tmp_path / "out.txt").read_bytes() == "übung".encode()
