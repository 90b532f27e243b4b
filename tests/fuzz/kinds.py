"""The kinds of files that users hand over: small real ones, and the code that reads them first.

Whatever a kind needs that is slow to import is imported by its functions.
"""

import gzip
import hashlib
import importlib.util
import io
import json
import pickle
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rstg_jax import config, data, files
from rstg_jax.convert import pickled_arrays, tf_checkpoint, torch_files
from rstg_jax.data import (
    BoxesConfig,
    ClipConfig,
    FeaturesConfig,
    FolderConfig,
    SomethingSomethingConfig,
    array_records,
    features,
)
from rstg_jax.data.sync_mnist import digits
from rstg_jax.data.video import decode, published
from rstg_jax.errors import UserError
from rstg_jax.inference import video_input
from tests import clip_files, video_corpus
from tests.fuzz.mutations import Files, png_sums

SIZE = 32, 24  # pixels of a frame
CLIP = ClipConfig(frames=4, resize=24, crop=20, spatial_views=2, temporal_views=2)
GOLDEN = Path(__file__).parents[1] / "golden" / "ckpt_simple_graph"
V1, V2 = "20bn-something-something-v1", "20bn-something-something-v2"
META = ("/metadata", "_METADATA", "/metrics")  # of a checkpoint; other files have random names
CATER = "actions_present", "actions_order_uniq", "localize"  # its tasks
LABELS = ["Moving something up", "Tilting something, then letting it go"]


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
      make: Makes small ones; each is one file, or several in a directory.
      read: Reads what lies in a directory, as users' commands do. Raises `UserError` to refuse.
      text: Whether to change words and numbers too.
      exact: Whether checksums must find every change: what is read must equal an original's.
      repair: Makes checksums right again, for half of the cases.
      harm: Ends of the names of the files that are damaged.
    """

    make: Callable[[], list[Files]]
    read: Callable[[Path], Any]
    text: bool = False
    exact: bool = False
    repair: Callable[[bytes], bytes] | None = None
    harm: tuple[str, ...] = ("",)


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Equal for equal arrays."""
    parts = [f"{k} {v.dtype} {v.shape}".encode() + v.tobytes() for k, v in sorted(arrays.items())]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def packed(directory: Path) -> Files:
    """All files below a directory."""
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


def unpack(files: Files, directory: Path) -> Path:
    """Writes files below a directory."""
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


def all_of(*reads: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Reads in several ways, of which each may refuse."""

    def read(directory: Path) -> None:
        refused = None
        for one in reads:
            try:
                one(directory)
            except UserError as error:
                refused = error
        if refused:
            raise refused

    return read


# --- videos ---


def encoded(*names: str) -> Callable[[], list[Files]]:
    def make() -> list[Files]:
        result = []
        for name in names:
            kind = video_corpus.KINDS[name]
            kind = kind._replace(muxer={**kind.muxer, "fflags": "bitexact"})  # no random names
            suffix = {"matroska": "mkv", "mpegts": "ts", "asf": "wmv", "mpeg": "mpg"}.get(
                kind.container, kind.container
            )
            result.append({f"clip.{suffix}": video_corpus.make(kind, 12, size=SIZE)})
        return result

    return make


def animated(suffix: str, **options: Any) -> Callable[[], list[Files]]:
    def make() -> list[Files]:
        images, result = clip_files.pictures(5, *SIZE), []
        for mode in ("RGB", "L"):
            first, *rest = [image.convert(mode) for image in images]
            buffer = io.BytesIO()
            first.save(buffer, suffix, save_all=True, append_images=rest, duration=80, **options)
            result.append({f"clip.{suffix}": buffer.getvalue()})
        return result

    return make


def still(suffix: str) -> Callable[[], list[Files]]:
    def make() -> list[Files]:
        result: Files = {}
        for number, image in enumerate(clip_files.pictures(3, *SIZE), 1):
            buffer = io.BytesIO()
            image.save(buffer, "jpeg" if suffix == "jpg" else suffix)
            result[f"clip/{number:05d}.{suffix}"] = buffer.getvalue()
        return [result]

    return make


def npy() -> list[Files]:
    rng, result = np.random.default_rng(0), []
    for shape in ((5, 12, 16), (5, 12, 16, 1), (5, 12, 16, 3)):
        buffer = io.BytesIO()
        np.save(buffer, rng.integers(0, 256, shape, np.uint8))
        result.append({"clip.npy": buffer.getvalue()})
    return result


def only(directory: Path) -> Path:
    found = sorted(directory.iterdir())
    if len(found) != 1:
        raise UserError("is gone")
    return found[0]


def build_clip(directory: Path) -> None:
    """As the builder of Something-Something reads it."""
    from tfds_builders.something_something import clips

    path = only(directory)
    try:
        if path.is_dir():
            clips.read_folder(path)
        else:
            clips.read_video(path, as_video=False, short_side=16, quality=90)
    except clips.BrokenClipError as error:  # is listed by the builder
        raise UserError(str(error)) from error


predict_clip = all_of(  # and as a data set checks it
    lambda directory: decode.check(only(directory)),
    lambda directory: video_input.read(only(directory), FolderConfig(clip=CLIP)),
)


# --- annotations and data sets ---


def listing() -> list[Files]:
    lines = b"path;label\na.npy;up\nb/c.npy;down\nb/d.npy;down\n\xc3\xa4.npy;up\n"
    videos = [content for sample in npy() for content in sample.values()]
    names = ("a.npy", "b/c.npy", "b/d.npy", "\u00e4.npy")
    index = json.dumps(dict.fromkeys(names, "1 1")).encode()
    return [
        {"list.csv": lines, ".rstg_jax_index.json": index}
        | {name: videos[k % 3] for k, name in enumerate(names)}
    ]


def read_listing(directory: Path) -> None:
    path = directory / "list.csv"
    data = FolderConfig(path=str(path), test_share=0.5, max_broken=0.9, clip=CLIP, workers=1)
    for split in ("train", "test"):
        source = data.open(split)
        source.batch(np.arange(len(source)))


def boxes() -> list[Files]:
    plain = {"a.mp4": {"0": [[1, 2, 9.5, 8, 0.5], [0, 0, 3, 4]], "2": [[1, 1, 5, 5]]}, "b.mp4": {}}
    box = {"box2d": {"x1": 1.5, "y1": 2, "x2": 9, "y2": 8}}
    frames = [{"name": f"7/{frame:04}.jpg", "labels": [box, box]} for frame in (1, 2)]
    contents = (plain, {"7": frames, "8": []})
    return [{"boxes.json": json.dumps(content).encode()} for content in contents]


def read_boxes(directory: Path) -> None:
    BoxesConfig(per_frame=2, path=str(directory)).read()


def annotations() -> list[Files]:
    """Of CATER, CLEVRER and Perception Test, each with a file for training and one for testing."""
    question = "Where is the hidden object at the end of the game the person plays?"
    entry = {
        "mc_question": [{"question": question, "options": ["Left.", "Right."], "answer_id": 1}],
        "action_localisation": [{"label": "Putting something", "label_id": 0}],
    }
    collision = {
        "object_property": [
            {"object_id": number, "material": "metal", "shape": "cube"} for number in range(2)
        ],
        "collision": [{"object_ids": [0, 1]}],
    }
    perception_test: dict[str, Any] = {}
    for split in ("train", "valid"):
        metadata = {"split": split, "is_cup_game": True}
        perception_test[f"{split}.json"] = {f"video_{split}": entry | {"metadata": metadata}}
        perception_test[f"cut_frame_mapping_{split}.json"] = {f"video_{split}": 5}
    clevrer = dict.fromkeys(("annotation_00000.json", "annotation_10000.json"), collision)
    lists = {f"{task}/{name}.txt" for task in CATER for name in ("train", "val")}
    return [
        {name: json.dumps(content).encode() for name, content in perception_test.items()},
        {name: json.dumps(content).encode() for name, content in clevrer.items()},
        dict.fromkeys(sorted(lists), b"videos/a.avi 3\nb.avi 12\n"),
    ]


def read_annotations(directory: Path) -> None:
    names = [f"cater_{task}" for task in CATER]
    if (directory / "annotation_00000.json").exists():
        names = ["clevrer_collisions"]
    elif (directory / "train.json").exists():
        names = ["perception_test_actions", "perception_test_cups"]
    for name in names:
        for split in ("train", "test"):
            published.READERS[name].read(directory, directory, split)


def idx(pack: Callable[[bytes], bytes], suffix: str) -> Callable[[], list[Files]]:
    def make() -> list[Files]:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (6, 28, 28), np.uint8).tobytes()
        header = np.array([0x803, 6, 28, 28], ">u4").tobytes()
        labels = np.array([0x801, 6], ">u4").tobytes() + bytes(range(6))
        name = "t10k-{}-idx{}-ubyte" + suffix
        return [
            {
                name.format("images", 3): pack(header + images),
                name.format("labels", 1): pack(labels),
            }
        ]

    return make


def read_idx(directory: Path) -> str:
    digits._load_idx.cache_clear()
    found = digits.load("idx", "test", mnist_dir=str(directory))
    return digits.fingerprint(found)


def download(version: str) -> Callable[[], list[Files]]:
    """Two clips a split as they are downloaded, "v1" or "v2"."""

    def make() -> list[Files]:
        ids = ("1", "2", "3", "4", "5", "6")
        if version == "v1":
            name = "something-something-v1-{}.csv"
            rows = [f"{k};{LABELS[int(k) % 2]}\n" for k in ids]
            lists = {"labels": LABELS, "train": rows[:2], "validation": rows[2:4], "test": ids[4:]}
            texts = {name.format(k): "\n".join(v).encode() for k, v in lists.items()}
            (frames,) = still("jpg")()
            folder = {f"{V1}/{i}{k[4:]}": v for i in ids for k, v in frames.items()}
            return [texts | folder]
        entry = {"template": "Moving [something] up", "placeholders": ["a cup"], "label": "moving"}
        lists = {
            "labels": {label: str(number) for number, label in enumerate(LABELS)},
            "train": [{"id": k, **entry} for k in ids[:2]],
            "validation": [{"id": k, **entry} for k in ids[2:4]],
            "test": [{"id": k} for k in ids[4:]],
        }
        texts = {f"labels/{k}.json": json.dumps(v, indent=1).encode() for k, v in lists.items()}
        texts["labels/test-answers.csv"] = "".join(f"{k};{LABELS[0]}\n" for k in ids[4:]).encode()
        (film,) = encoded("vp9, webm")()[0].values()
        return [texts | {f"{V2}/{k}.webm": film for k in ids}]

    return make


def read_download(version: str) -> Callable[[Path], None]:
    """Makes the examples of a download and encodes them, as the builder does."""

    def read(directory: Path) -> None:
        from tfds_builders.shards import Skipped
        from tfds_builders.something_something import annotations, something_something

        settings = something_something.SomethingSomethingBuilderConfig.of(version)
        found = annotations.read(version, directory)
        metadata = something_something.metadata(settings, found)
        files.write_json(directory / "building.json", metadata)
        encode = something_something.features(settings, found.label_names).serialize_example
        for split, some in found.clips.items():
            for clip in some:
                inside = found.file(clip).resolve().parent == found.folder.resolve()
                assert inside, f"{clip.id!r} leaves the folder"
            for example in something_something.examples(settings, found, split, some):
                if isinstance(example, Skipped):
                    json.dumps(example.state), f"{example.id} {example.file}".encode()
                else:
                    encode(example)

    return read


def prepared() -> list[Files]:
    from tfds_builders.something_something import build, something_something

    with tempfile.TemporaryDirectory() as place:
        manual = unpack(download("v2")()[0], Path(place, "manual"))
        settings = something_something.SomethingSomethingBuilderConfig.of("v2")
        build.build(settings, manual, Path(place, "data"))
        return [packed(Path(place, "data"))]


def read_prepared(directory: Path) -> str:
    data = SomethingSomethingConfig("v2", str(directory), clip=CLIP, workers=1)
    source = data.open("train")
    return digest(source.batch(np.arange(len(source))))


def stored_features() -> list[Files]:
    """A shard of three maps of random numbers and its description."""
    shape, names = (2, 3, 3, 4), ("a", "b")
    stored = features.StoredSplit(
        "train", shape, "float16", 3, 4, True, names, {"name": "x"}, "0", {"sha256": "1"}, {}
    )
    maps = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float16)
    with tempfile.TemporaryDirectory() as place:
        with array_records.shard_writer(stored.path(Path(place), 0)) as write:
            for number in range(3):
                write(features.encode(maps[number], number % 2, f"clip {number}"))
        files.write_json(Path(place, "train.json"), config.to_dict(stored))
        return [packed(Path(place))]


def read_features(directory: Path) -> str:
    source = FeaturesConfig(str(directory)).open("train")
    return digest(data.checked_batch(source, np.arange(len(source))))


# --- weights ---


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "fc.weight": (2, 4)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def safetensors() -> list[Files]:
    from safetensors.numpy import save

    index = {"weight_map": dict.fromkeys(tensors(), "weights.safetensors")}
    whole = {"weights.safetensors": save(tensors(), {"format": "pt"})}
    return [whole, whole | {"weights.safetensors.index.json": json.dumps(index).encode()}]


def pth() -> list[Files]:
    import torch

    state = {name: torch.tensor(value) for name, value in tensors().items()}
    result = []
    for zipped in (True, False):  # as today, and as before 2020
        buffer = io.BytesIO()
        torch.save({"epoch": 3, "state_dict": state}, buffer, _use_new_zipfile_serialization=zipped)
        result.append({"weights.pth": buffer.getvalue()})
    return result


def read_torch(directory: Path) -> str:
    paths = sorted(directory.iterdir(), key=lambda path: path.suffix)
    return digest(torch_files.read(paths[0] if paths else directory / "weights.pth"))


def pickled() -> list[Files]:
    tree = {"params": tensors(), "batch_stats": {"mean": np.zeros((1, 4), np.float32)}}
    return [{"weights.ckpt": pickle.dumps(tree, protocol)} for protocol in (2, 4)]


def read_pickled(directory: Path) -> str:
    return digest(pickled_arrays.read(directory / "weights.ckpt"))


def tensorflow() -> list[Files]:
    return [{path.name: path.read_bytes() for path in GOLDEN.glob("model_2.ckpt.*")}]


def read_tensorflow(directory: Path) -> str:
    return digest(tf_checkpoint.read(directory))


def table_sums(content: bytes) -> bytes:
    """Makes the checksums of an index of TensorFlow right, so that what it claims is believed."""
    fixed = bytearray(content)

    def fix(start: int, size: int) -> None:
        end = start + size + 1
        if end + 4 <= len(fixed):
            fixed[end : end + 4] = tf_checkpoint._masked_crc(fixed[start:end]).to_bytes(4, "little")

    try:
        meta, at = tf_checkpoint._handle(content, len(content) - tf_checkpoint.FOOTER)
        index, _ = tf_checkpoint._handle(content, at)
        fix(*meta)
        fix(*index)
        for _, value in tf_checkpoint._block(bytes(fixed), *index):
            fix(*tf_checkpoint._handle(value, 0)[0])
    except Exception:  # the places of the other blocks are lost
        return bytes(fixed)
    return bytes(fixed)


# --- runs ---


def checkpoints() -> list[Files]:
    """Two checkpoints with a manifest; the bytes in one are as Orbax writes them."""
    from rstg_jax.training import checkpoint

    experiment = config.load("configs/sync_mnist.py:demo")
    with tempfile.TemporaryDirectory() as place:
        meta = {
            "config": config.to_dict(experiment),
            "label_names": ["up", "down"],
            "video_shape": [10, 32, 32, 1],
            "total_steps": 2,
        }
        with checkpoint.Checkpoints(place) as saved:
            for step in (1, 2):
                state = {"a": step * np.arange(99, dtype=np.float32)}
                saved.save(step, state, meta, score={"top1": 0.5})
        return [packed(Path(place))]


def old_checkpoints() -> list[Files]:
    """Without manifests, as of an earlier version: nothing protects what is written there."""
    (sample,) = checkpoints()
    return [{k: v for k, v in sample.items() if not k.endswith("manifest.json")}]


def read_checkpoint(directory: Path) -> str:
    import jax

    from rstg_jax.training import checkpoint
    from rstg_jax.training.experiment import Experiment

    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {"a": jax.ShapeDtypeStruct((99,), np.float32, sharding=place)}
    with checkpoint.Checkpoints(directory, read_only=True) as saved:
        step = saved.resolve("last")
        config.from_dict(Experiment, saved.run_meta(step)["config"])
        saved.stored_variables(step)
        return digest({"a": np.asarray(saved.restore(step, wanted)["a"])})


def overrides() -> list[Files]:
    words = """--config.train.batch_size=8
        --config.optim.clip_norm none
        --config.optim.learning_rate=1e-3
        --config.train.init_from=runs/a:best
        --config.train.init_fresh=(head,rstg)
        --config.model.backbone=ResNet3DConfig
        --config.model.backbone.depths=(3,4,6,3)
        --config.model.rstg.scales=(1,2)
        --noconfig.model.rstg.positions
        --config.name=run"""
    return [{"words.txt": "\n".join(words.split()).encode()}]


def read_overrides(directory: Path) -> None:
    import argparse

    from rstg_jax import cli
    from rstg_jax.training.experiment import Experiment

    words = only(directory).read_bytes().decode("utf-8", "surrogateescape").split("\n")
    experiment = config.load("configs/sync_mnist.py:demo")
    try:
        _, changes = cli.parse(argparse.ArgumentParser(), words, config_class=Experiment)
    except SystemExit as end:
        raise UserError("wrong usage") from end
    config.override(experiment, changes)


build_too = all_of(predict_clip, build_clip)
KINDS = {
    "mp4": Kind(
        encoded("h264, mp4", "h264, mov", "h264, fragmented mp4", "h265, mp4", "mpeg4, mp4"),
        predict_clip,
    ),
    "webm": Kind(encoded("vp9, webm", "vp8, hidden packets", "av1, webm"), build_too),
    "mkv": Kind(encoded("h264, mkv", "ffv1, mkv", "h264, interlaced"), predict_clip),
    "avi": Kind(encoded("mpeg4, avi", "jpeg, avi", "raw, avi"), predict_clip),
    "streams": Kind(
        encoded("h264, ts", "mpeg2, mpg", "wmv2, wmv", "flv1, flv", "quicktime animation"),
        predict_clip,
    ),
    "gif": Kind(animated("gif"), predict_clip),
    "webp": Kind(animated("webp"), predict_clip),
    "png": Kind(animated("png"), predict_clip, repair=png_sums),
    "jpg": Kind(still("jpg"), build_too),
    "pngs": Kind(still("png"), predict_clip, repair=png_sums),
    "npy": Kind(npy, predict_clip),
    "csv": Kind(listing, read_listing, text=True, harm=("csv", "json")),
    "boxes": Kind(boxes, read_boxes, text=True),
    "annotations": Kind(annotations, read_annotations, text=True),
    "idx": Kind(idx(bytes, ""), read_idx),
    "idx_gz": Kind(idx(lambda x: gzip.compress(x, mtime=0), ".gz"), read_idx, exact=True),
    "smt_v1": Kind(download("v1"), read_download("v1"), text=True, harm=("csv",)),
    "smt_v2": Kind(download("v2"), read_download("v2"), text=True, harm=("csv", "json")),
    "array_record": Kind(prepared, read_prepared, exact=True, harm=("-of-00001",)),
    "tfds": Kind(prepared, read_prepared, text=True, harm=("json", "txt")),
    "features": Kind(stored_features, read_features, exact=True, harm=("-of-00001",)),
    "features_json": Kind(stored_features, read_features, text=True, harm=("json",)),
    "safetensors": Kind(safetensors, read_torch, text=True),
    "pickle": Kind(pickled, read_pickled),
    "tensorflow": Kind(tensorflow, read_tensorflow, exact=True),
    "tf_forged": Kind(tensorflow, read_tensorflow, repair=table_sums),
    "checkpoint": Kind(checkpoints, read_checkpoint, exact=True, harm=("manifest.json", *META)),
    "old_checkpoint": Kind(old_checkpoints, read_checkpoint, text=True, harm=META),
    "overrides": Kind(overrides, read_overrides, text=True),
}
if importlib.util.find_spec("torch"):  # it writes these files
    KINDS["pth"] = Kind(pth, read_torch)
