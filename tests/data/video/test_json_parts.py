"""Parts of JSON files, from a cache that is used only while it is whole and up to date."""

import json
import logging
import os
from pathlib import Path

import pytest

from rstg_jax import files
from rstg_jax.data.video.json_parts import json_parts
from rstg_jax.errors import UserError

CACHE = ".rstg_jax_test.json"


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads two files; returns the parts and the names of the files that were opened for them."""
    for name, value in (("a", 1), ("b", 2)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"kept": value, "large": [0.5] * 9}))
    opened = []
    read_json = files.read_json

    def noted(path):
        if path.name != CACHE:
            opened.append(path.stem)
        return read_json(path)

    monkeypatch.setattr(files, "read_json", noted)

    def read(*names):
        opened.clear()
        paths = [tmp_path / f"{name}.json" for name in names or ("a", "b")]
        parts = json_parts(tmp_path, paths, lambda content: content["kept"], "test")
        return {path.stem: part for path, part in parts}, list(opened)

    return read


def test_each_file_is_read_once_and_again_when_it_changes(read, tmp_path):
    assert read("a") == ({"a": 1}, ["a"])
    assert read() == ({"a": 1, "b": 2}, ["b"])
    assert read() == ({"a": 1, "b": 2}, [])
    assert "large" not in (tmp_path / CACHE).read_text()
    (tmp_path / "b.json").write_text('{"kept": 33}')
    assert read() == ({"a": 1, "b": 33}, ["b"])
    (tmp_path / "b.json").write_text('{"kept": 44}')  # as long as before
    os.utime(tmp_path / "b.json", ns=(0, 7))
    assert read() == ({"a": 1, "b": 44}, ["b"])
    (tmp_path / "b.json").unlink()
    with pytest.raises(UserError, match=r"b\.json"):
        read()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("1]", "5]"),  # another part
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: '{"sha256": 1, "files": 2}',
        lambda text: '{"files": ' + "[" * 100_000,
    ],
)
def test_a_damaged_cache_is_not_used(read, tmp_path, damage):
    read()
    cache = tmp_path / CACHE
    whole = cache.read_text()
    cache.write_text(damage(whole))
    assert cache.read_text() != whole
    assert read() == ({"a": 1, "b": 2}, ["a", "b"])
    assert cache.read_text() == whole


def test_a_cache_that_cannot_be_written_is_a_warning(read, caplog, monkeypatch):
    def full(path, content):
        raise UserError(f"cannot write {path}: no space")

    monkeypatch.setattr(files, "write_bytes", full)
    with caplog.at_level(logging.WARNING):
        assert read() == read() == ({"a": 1, "b": 2}, ["a", "b"])
    assert caplog.messages[0].endswith("no space; the annotations are read anew each time")
    assert Path(CACHE).name in caplog.messages[0]
