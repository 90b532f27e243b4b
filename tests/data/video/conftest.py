"""What the tests of public data sets share: videos and lists on disk."""

import pytest

from tests import clip_files


@pytest.fixture(scope="module")
def film():
    options = {"deadline": "realtime", "cpu-used": "8"}
    return clip_files.film(clip_files.pictures(3), **options)


@pytest.fixture
def write(tmp_path, film):
    """Writes a video, or a list with CRLF line ends, below tmp_path."""

    def write(name, text=None):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(film if text is None else text.replace("\n", "\r\n").encode())

    return write
