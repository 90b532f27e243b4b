"""The page beside annotated videos."""

import html.parser
import os

import pytest

from rstg_jax.errors import UserError
from rstg_jax.viz import prediction_page

RECORDS = [
    {
        "video": "films/a & b #1.mp4",
        "predictions": [
            {"label": "<i>jumping</i>", "probability": 0.875},
            {"label": "diving", "probability": 0.0625},
        ],
        "drawn": "out/a & b #1.mp4",
    },
    {"video": "films/c.webm", "error": "c.webm: broken"},
    {
        "video": "e.mp4",
        "predictions": [{"label": "y", "probability": 0.5}],
        "error": "e.mp4: No space left on device",
    },
    {"video": "d.gif", "predictions": [{"label": "x", "probability": 1.0}], "drawn": "out/d.gif"},
]


class Reader(html.parser.HTMLParser):
    """Keeps texts and the sources of videos and pictures."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.sources, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.sources += [(tag, value) for key, value in attributes if key == "src"]

    def handle_data(self, data):
        self.texts += [data.strip()] if data.strip() else []


def test_page(tmp_path):
    path = prediction_page.write(tmp_path, "I3D", 400, RECORDS)
    found = Reader(path.read_text("utf-8"))
    assert path == tmp_path / "index.html"
    assert found.sources == [("video", "a%20%26%20b%20%231.mp4"), ("img", "d.gif")]
    shown = found.texts[found.texts.index("a & b #1.mp4") :]
    assert shown == [
        *("a & b #1.mp4", "87.5%", "<i>jumping</i>", "6.2%", "diving"),
        *("c.webm", "c.webm: broken"),
        *("e.mp4", "50.0%", "y", "e.mp4: No space left on device"),
        *("d.gif", "100.0%", "x"),
    ]
    name = os.fsdecode(b"caf\xe9.mp4")
    record = {"video": name, "predictions": RECORDS[3]["predictions"], "drawn": f"out/{name}"}
    failed = {"video": name, "error": f"{name}: broken"}
    path = prediction_page.write(tmp_path, "I3D", 400, [record, failed])
    found = Reader(path.read_text("utf-8"))
    assert found.sources == [("video", "caf%E9.mp4")]
    assert r"caf\udce9.mp4" in found.texts and r"caf\udce9.mp4: broken" in found.texts
    with pytest.raises(UserError, match="cannot write"):
        prediction_page.write(tmp_path / "none", "I3D", 400, RECORDS)
