"""Pickles of arrays: read without running anything, whoever wrote them."""

import collections
import pickle

import numpy as np
import pytest

from rstg_jax.convert import pickled_arrays
from rstg_jax.errors import UserError


class Code:
    """What a pickle of weights must not hold."""

    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL))
def test_arrays_of_nested_dicts(protocol, tmp_path):
    rng = np.random.default_rng(0)
    tree = {
        "params": {
            "a": rng.normal(size=(2, 3, 4)).astype(np.float32),
            "columns": np.asfortranarray(rng.normal(size=(3, 4))),
            "big_endian": rng.normal(size=5).astype(">f4"),
        },
        "step": np.array(7, np.int64),
        "none": np.zeros((0, 3), np.float16),
    }
    file = tmp_path / "weights.ckpt"
    file.write_bytes(pickle.dumps(tree, protocol))
    found = pickled_arrays.read(file)
    flat = {f"params/{name}": value for name, value in tree.pop("params").items()} | tree
    assert found.keys() == flat.keys()
    for name, value in flat.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype.newbyteorder("=") == value.dtype.newbyteorder("=")


def test_pickles_of_python_2(tmp_path):
    """As Caffe2 wrote them: bytes are texts, to be read as latin-1."""
    content = (
        b"\x80\x02}U\x01aq\x00cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nK\x00\x85"
        b"U\x01b\x87Rq\x02(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87Rq\x03(K\x03U\x01<NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\xc0\xc0tbs."
    )
    (tmp_path / "weights.pkl").write_bytes(content)
    assert pickled_arrays.read(tmp_path / "weights.pkl")["a"].tolist() == [1, -6]


def test_nothing_is_run(tmp_path, capsys):
    file = tmp_path / "weights.ckpt"
    for value, message in (
        ({"a": Code()}, "it names builtins.print"),
        ({"a": np.array([Code(), None])}, "it names builtins.print"),
        ({"a": np.array(["x", None])}, "arrays of type .*O8 are not read"),
        ({"a": np.array(["x"])}, "arrays of type <U1 are not read"),
        (collections.OrderedDict(a=np.zeros(1)), "it names collections.OrderedDict"),
        ({"a": [np.zeros(1)]}, "a is a list"),
        (3, "the whole is a int"),
        ({"a": bytearray(99)}, ""),
        (b"\x80\x02c_codecs\nencode\nN}X\x01\x00\x00\x00aNs\x86b.", "it changes what is no array"),
    ):
        file.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value))
        with pytest.raises(UserError, match=rf"weights\.ckpt is no pickle of arrays .*{message}"):
            pickled_arrays.read(file)
    assert "run" not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"cannot read .*none\.ckpt"):
        pickled_arrays.read(tmp_path / "none.ckpt")


def test_damaged_files(tmp_path):
    whole = pickle.dumps({"a": np.arange(6, dtype=np.float32).reshape(2, 3)})
    file = tmp_path / "weights.ckpt"
    for content in (
        b"",
        whole[:-20],
        whole.replace(b"K\x02K\x03\x86", b"K\x02K\x04\x86"),  # a shape that the bytes do not have
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes that are not there
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # the 2147483647th object of the memo
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"weights\.ckpt is no pickle of arrays alone: "):
            pickled_arrays.read(file)
