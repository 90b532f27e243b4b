"""The page and its pictures."""

import dataclasses
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from benchmarks.analysis import __main__ as command
from benchmarks.analysis import page, pictures, what_decides
from benchmarks.analysis.accuracy import Quarter
from benchmarks.analysis.subject import Share, Subject
from rstg_jax.errors import UserError
from rstg_jax.inference import known_weights
from rstg_jax.viz import charts


def test_charts_are_the_same_again():
    frames = {2: Share(0.5, 0.01), 3: Share(0.7, 0.02)}
    parts = [Quarter(k, k + 0.5, k + 1, Share(0.1 + 0.2 * k, 0.03)) for k in range(4)]
    quarters = {"distance, canvas pixels": parts, "share hidden": parts, "speed, pixels": parts}
    drawn = [pictures.accuracy_charts(frames, Share(0.6, 0.02), quarters, 1 / 3) for _ in range(2)]
    assert drawn[0] == drawn[1]
    root = ElementTree.fromstring(drawn[0])
    assert "sans-serif" in root.attrib["font-family"]
    texts = [text.text for text in root.iter(f"{{{charts.SVG}}}text")]
    for shown in ("By distance", "canvas pixels", "By share hidden", "all 3, shuffled"):
        assert shown in texts
    other = pictures.accuracy_charts(frames, Share(0.61, 0.02), quarters, 1 / 3)
    assert other != drawn[0]


def test_regions_are_shaded_by_their_values(subject):
    effects = np.zeros((8, 9))
    effects[5, [0, 8]] = [1, 0.5]
    values = {change: effects * (k == 0) for k, change in enumerate(what_decides.CHANGES)}
    values[what_decides.ATTENTION] = np.full((8, 9), 1 / 14)
    drawn = [pictures.nodes(subject, 2, values, [5]) for _ in range(2)]
    assert drawn[0] == drawn[1]
    image = np.asarray(Image.open(io.BytesIO(drawn[0]))).astype(int)
    orange = (image[..., 0] - image[..., 2] > 150).sum()
    blue = (image[..., 2] - image[..., 0] > 100).sum()
    cell = (1.75 * pictures.DPI / 3) ** 2  # pixels, a little more than it has
    assert 0.5 * cell < orange < 1.1 * cell  # region 0; region 8 is shaded half as strongly
    assert blue > 4 * cell
    values[what_decides.SILENCE] = -effects
    image = np.asarray(Image.open(io.BytesIO(pictures.nodes(subject, 2, values, [5]))))
    assert (image[..., 0].astype(int) - image[..., 2] > 150).sum() == 0


def test_no_picture_without_right_answers(subject, monkeypatch, tmp_path):
    wrong = (subject.videos["label"] + 1) % len(subject.weights.label_names)
    monkeypatch.setattr(Subject, "log_probabilities", lambda *_: np.eye(wrong.max() + 1)[wrong])
    text = page._picture(dataclasses.replace(subject), 2, {}, tmp_path)
    assert text.startswith("No picture")
    assert not list(tmp_path.iterdir())


def test_every_model_has_its_page():
    assert command.page_name("sync_mnist/lite5") == "analysis.md"
    assert command.page_name("sync_mnist/lite3") == "analysis_lite3.md"
    assert command.page_name("runs/lite9.safetensors") == "analysis_lite9.md"
    shown = command.command("sync_mnist/lite5", 50, {"data.mnist_dir": "/mnist"})
    assert shown.endswith("--weights=sync_mnist/lite5 --videos=50 --config.data.mnist_dir=DIR")


def test_bad_flags():
    with pytest.raises(UserError, match="--videos=0: at least 1 video"):
        command.main(["--videos=0"])
    with pytest.raises(UserError, match="--weights=long_range/cups: this is about SyncMNIST"):
        command.main(["--weights=long_range/cups"])


def test_objects_are_shaded_where_they_are(on_objects):
    """Of three classes two are in each video: the third has the largest value, and no place."""
    absent = 3 - on_objects.videos["object_class"].sum(1)
    effects = np.zeros((8, 3))
    effects[np.arange(8), absent] = 2
    effects[np.arange(8), on_objects.videos["object_class"][:, 0]] = 1
    values = dict.fromkeys(what_decides.CHANGES, effects)
    values[what_decides.ATTENTION] = np.zeros((8, 3))
    image = np.asarray(Image.open(io.BytesIO(pictures.nodes(on_objects, 2, values, [0]))))
    orange = (image[..., 0].astype(int) - image[..., 2] > 60).sum()
    box = (1.75 * pictures.DPI * 0.28) ** 2  # pixels of a digit's box
    assert 0.5 * 3 * box < orange < 1.2 * 3 * box


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "parts", "chances"),
    [("subject", 6, 1), ("on_objects", 2, 2)],
    ids=["regions", "objects"],
)
def test_page(model, parts, chances, tmp_path, monkeypatch, request):
    subject = request.getfixturevalue(model)
    monkeypatch.setitem(known_weights.KNOWN, "tests/tiny", lambda: subject.weights)
    out = tmp_path / "new"
    assert command.main(["--weights=tests/tiny", "--videos=8", f"--out={out}"]) == 0
    text = (out / "analysis_tiny.md").read_text()
    head = 2  # lines of each table
    rule = 2 + head if model == "on_objects" else 0
    tables = 2 * (5 + head) + 3 * (4 + head) + (parts + head) + (4 + chances + head) + rule
    assert text.count("\n| ") == tables
    assert f"| chance: any {subject.node} |" in text
    assert ("| chance: any digit that is there | 100.0 ± 0.0 |" in text) == (chances == 2)
    pictured = re.findall(r"!\[.+\]\((.+)\)", text)
    assert pictured == ["analysis_tiny/accuracy.svg", "analysis_tiny/what_decides.png"]
    assert all((out / name).stat().st_size < 150e3 for name in pictured)
