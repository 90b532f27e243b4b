"""The reader of TensorFlow checkpoints, on two that TensorFlow wrote and on ones made here."""

import json
import pathlib
import shutil
import struct

import google_crc32c
import numpy as np
import pytest

from rstg_jax import limits
from rstg_jax.convert import tf_checkpoint
from rstg_jax.errors import UserError
from rstg_jax.rstg.region_graph import RegionGraph, area_weights

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
SIMPLE, I3D = GOLDEN / "ckpt_simple_graph", GOLDEN / "ckpt_i3d_graph_final"
LSTM = "tower/whole_graph_model_final/cudnn_lstm"


@pytest.mark.parametrize("directory", [SIMPLE, I3D])
def test_names_shapes_and_types(directory):
    listed = json.loads((directory / "name_to_shape.json").read_text())
    listed = {name: tuple(shape) for name, shape in listed.items()}
    arrays = tf_checkpoint.read(directory / "model_2.ckpt")
    assert {name: array.shape for name, array in arrays.items()} == listed
    assert tf_checkpoint.shapes(directory / "model_2.ckpt.index") == listed
    assert {a.dtype.name for n, a in arrays.items() if n != "global_step"} == {"float32"}
    assert arrays["global_step"].dtype == np.int32
    assert arrays["global_step"] == 2


def test_values_against_constants():
    simple, i3d = tf_checkpoint.read(SIMPLE), tf_checkpoint.read(I3D)
    graph = RegionGraph()
    np.testing.assert_allclose(simple["tower/positional_emb"], graph.position_maps, atol=1e-7)
    for arrays, side, scope in ((simple, 6, "tower"), (i3d, 14, "tower/resnet_i3d")):
        for scale in (1, 2, 3):
            name = f"resize_filters__{side}_{side}_{scale}x{scale}"
            axis = area_weights(side, scale)  # [scale side]
            wanted = np.einsum("ih,jw->ijhw", axis, axis)
            np.testing.assert_allclose(
                arrays[f"{scope}/graph_input/resize/{name}"], wanted, atol=1e-7
            )


def test_values_against_each_other():
    # A Saver stores each LSTM twice; gates i f c o, kernels [out in] in the one, i c f o, [in out]
    # in the other.
    arrays = tf_checkpoint.read(SIMPLE)
    opaque = arrays[f"{LSTM}/opaque_kernel"]
    scope = f"{LSTM}/rnn/multi_rnn_cell/cell_0/cudnn_compatible_lstm_cell"
    kernels = opaque[: 8 * 64].reshape(2, 4, 8, 8)  # [input or recurrent, gate, out, in]
    rows = [np.concatenate([kernels[part, gate].T for gate in (0, 2, 1, 3)], 1) for part in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(rows), arrays[f"{scope}/kernel"])
    biases = opaque[8 * 64 :].reshape(2, 4, 8).sum(0)[[0, 2, 1, 3]]
    np.testing.assert_allclose(biases.reshape(-1), arrays[f"{scope}/bias"], rtol=1e-6)


# A writer of the format, for what the two checkpoints do not have.


def varint(value):
    groups = []
    while value >= 128:
        groups.append(value % 128 + 128)
        value //= 128
    return bytes([*groups, value])


def field(number, value):
    if isinstance(value, int):
        return varint(number * 8) + varint(value)
    return varint(number * 8 + 2) + varint(len(value)) + value


def shape(*sizes):
    return field(2, b"".join(field(2, field(1, size)) for size in sizes))


def masked(data):
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15) + (crc << 17) + 0xA282EAD8) % 2**32)


def block(items, compression=0):
    """All keys in full: the real files have shared beginnings."""
    data = b"".join(varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in items)
    data += struct.pack("<II", 0, 1) + bytes([compression])
    return data + masked(data)


def write(prefix, arrays, *, compression=0, endianness=0, number=None, extra=b""):
    """Writes two shards, arrays in turn; `number` replaces the number of the type."""
    numbers = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}
    items, shards = [(b"", field(1, 2) + field(2, endianness))], [b"", b""]
    for index, (name, array) in enumerate(sorted(arrays.items())):
        shard, data = index % 2, array.tobytes()
        shape = b"".join(field(2, field(1, size)) for size in array.shape)
        entry = field(1, number or numbers[array.dtype.name]) + field(2, shape) + field(3, shard)
        entry += field(4, len(shards[shard])) + field(5, len(data))
        entry += varint(6 * 8 + 5) + masked(data) + extra
        items.append((name.encode(), entry))
        shards[shard] += data
    for shard, data in enumerate(shards):
        pathlib.Path(f"{prefix}.data-{shard:05d}-of-00002").write_bytes(data)
    # Two data blocks, an empty metaindex, the index of blocks, and the footer.
    blocks = [block(part, compression) for part in (items[:2], items[2:]) if part]
    starts = np.cumsum([0, *map(len, blocks)])
    handles = [
        varint(int(start)) + varint(len(b) - 5) for start, b in zip(starts, blocks, strict=False)
    ]
    meta, index = block([]), block([(b"\xff", handle) for handle in handles])
    end = int(starts[-1])
    footer = varint(end) + varint(len(meta) - 5) + varint(end + len(meta)) + varint(len(index) - 5)
    footer = footer.ljust(40, b"\0") + 0xDB4775248B80FB57.to_bytes(8, "little")
    pathlib.Path(f"{prefix}.index").write_bytes(b"".join(blocks) + meta + index + footer)


ARRAYS = {
    "a/half": np.linspace(-2, 2, 6, dtype=np.float16).reshape(2, 3),
    "b/single": np.linspace(-2, 2, 300, dtype=np.float32).reshape(3, 4, 25),
    "c/double": np.array([np.pi, -np.inf]),
    "d/int": np.array([-(2**31), 7], np.int32),
    "e/long": np.array(2**40 + 1),
    "f/empty": np.zeros((0, 3), np.float32),
}


def test_types_and_shards(tmp_path):
    write(tmp_path / "model", ARRAYS)
    found = tf_checkpoint.read(tmp_path)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_ways_to_name_a_checkpoint(tmp_path):
    for name in ("model_1.ckpt", "model_2.ckpt"):
        write(tmp_path / name, {"x": np.array([name.endswith("2.ckpt")], np.int32)})
    for suffix in ("", ".index", ".meta", ".data-00001-of-00002"):
        assert tf_checkpoint.read(tmp_path / f"model_2.ckpt{suffix}")["x"] == 1
    with pytest.raises(UserError, match=r"several checkpoints.*model_1\.ckpt, model_2\.ckpt"):
        tf_checkpoint.read(tmp_path)
    # As TensorFlow writes it, with a path of another machine.
    (tmp_path / "checkpoint").write_text(
        'model_checkpoint_path: "/there/model_2.ckpt"\n'
        'all_model_checkpoint_paths: "/there/model_1.ckpt"\n'
    )
    assert tf_checkpoint.read(tmp_path)["x"] == 1
    pathlib.Path(tmp_path / "model_2.ckpt.index").unlink()
    with pytest.raises(UserError, match=r"model_2\.ckpt\.index does not exist"):
        tf_checkpoint.read(tmp_path)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"compression": 1}, r"model\.index: compressed \(snappy\)"),
        ({"endianness": 1}, r"model\.index was written on a big-endian machine"),
        ({"number": 7}, r"model\.data-00000-of-00002: x has TensorFlow's data type number 7"),
        ({"number": 2}, r"x \[3\] cannot have 12 bytes"),
        ({"extra": field(7, b"")}, "x is stored in slices"),
        # Of a repeated scalar the last one counts.
        ({"extra": field(3, 2)}, r"model\.index .*lies in a file beyond the 2 that there are"),
        # Claims beyond what there is, with the right checksums.
        ({"extra": field(4, 1 << 63)}, "data-00000-of-00002 is cut off: x ends at byte 922337203"),
        ({"extra": shape(1 << 40) + field(5, 1 << 42)}, "data-00000-of-00002 is cut off: x ends"),
        ({"extra": shape(0, 1 << 62)}, r"index .*an array of \[0, 4611686018427387904\] is too la"),
        ({"extra": varint(9 * 8) + b"\xff" * 11}, r"model\.index .*a number is too long"),
    ],
)
def test_what_cannot_be_read(tmp_path, settings, message):
    write(tmp_path / "model", {"x": np.zeros(3, np.float32)}, **settings)
    with pytest.raises(UserError, match=message) as error:
        tf_checkpoint.read(tmp_path)
    assert "\n" not in str(error.value)


def test_claims_of_an_index_are_bounded(tmp_path, monkeypatch):
    write(tmp_path / "model", {"x" * 5000: np.zeros(3, np.float32)})
    with pytest.raises(UserError, match=r"model\.index .*a name is too long"):
        tf_checkpoint.read(tmp_path)
    write(tmp_path / "model", {"x": np.zeros(3, np.float32)})
    monkeypatch.setattr(limits, "TF_FILES", 1)
    with pytest.raises(UserError, match=r"model\.index .*2 data files are too many"):
        tf_checkpoint.read(tmp_path)


def test_missing_files(tmp_path):
    with pytest.raises(UserError, match=r"no file \*\.index"):
        tf_checkpoint.read(tmp_path)
    with pytest.raises(UserError, match=r"none\.index does not exist"):
        tf_checkpoint.read(tmp_path / "none")
    (tmp_path / "old.ckpt").write_bytes(b"x")
    with pytest.raises(UserError, match="old single-file format"):
        tf_checkpoint.read(tmp_path / "old.ckpt")
    shutil.copy(SIMPLE / "model_2.ckpt.index", tmp_path)
    with pytest.raises(UserError, match=r"cannot read .*data-00000-of-00001: No such file"):
        tf_checkpoint.read(tmp_path)


def test_every_damaged_byte_of_an_index_is_noticed(tmp_path):
    """But for the footer's padding, which says nothing."""
    for file in SIMPLE.glob("model_2*"):
        shutil.copy(file, tmp_path)
    index = tmp_path / "model_2.ckpt.index"
    data = index.read_bytes()
    footer = len(data) - tf_checkpoint.FOOTER
    for at in [*range(0, footer, 7), *range(footer, len(data))]:
        index.write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        try:
            tf_checkpoint.read(tmp_path)
        except UserError as error:
            assert str(index) in str(error)
        else:
            assert data[at] == 0
            assert at >= footer
    for length in (0, 47, 1000, len(data) - 1):
        index.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"model_2\.ckpt\.index is not a TensorFlow index"):
            tf_checkpoint.read(tmp_path)


def test_damaged_data_is_noticed_and_named(tmp_path):
    for file in SIMPLE.glob("model_2*"):
        shutil.copy(file, tmp_path)
    (path,) = tmp_path.glob("*.data*")
    data = path.read_bytes()
    for at in range(0, len(data), 97):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(UserError, match=r"is damaged: wrong checksum of (tower/|global_step)"):
            tf_checkpoint.read(tmp_path)
    path.write_bytes(data[:-1])
    with pytest.raises(UserError, match=r"data-00000-of-00001 is cut off: \S+ ends at byte"):
        tf_checkpoint.read(tmp_path)
