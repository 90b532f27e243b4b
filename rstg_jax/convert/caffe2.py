"""Weights of Caffe2, whose arrays get the names that PySlowFast gave them later.

PySlowFast's first models and those of video-nonlocal-net are pickles of Caffe2, such as
``res4_5_branch2c_bn_riv``, ``nonlocal_conv3_1_theta_w`` or ``t_pool1_subsample_w``, where ``t_`` is
the fast pathway. Source: PySlowFast's `c2_model_loading.py`.
"""

import re
from pathlib import Path

from rstg_jax.convert import pickled_arrays
from rstg_jax.convert.fit import Arrays
from rstg_jax.errors import UserError

# Names of layers, without the letter of the array -> PySlowFast's. The pathway is put in last.
LAYERS = {
    r"conv1": r"s1.PATHWAY_stem.conv",
    r"res_conv1_bn": r"s1.PATHWAY_stem.bn",
    r"res(\d+)_(\d+)_branch1(_bn)?": r"s\1.PATHWAY_res\2.branch1\3",
    r"res(\d+)_(\d+)_branch2([abc])(_bn)?": r"s\1.PATHWAY_res\2.branch2.\3\4",
    r"nonlocal_conv(\d+)_(\d+)_(theta|phi|g|out)": r"s\1.PATHWAY_nonlocal\2.conv_\3",
    r"nonlocal_conv(\d+)_(\d+)_bn": r"s\1.PATHWAY_nonlocal\2.norm",
    r"pool1_subsample": r"s1_fuse.conv_f2s",
    r"pool1_subsample_bn": r"s1_fuse.bn",
    r"res(\d+)_\d+_branch2c_bn_subsample": r"s\1_fuse.conv_f2s",
    r"res(\d+)_\d+_branch2c_bn_subsample_bn": r"s\1_fuse.bn",
    r"pred": r"head.projection",
}
ARRAYS = {"w": "weight", "b": "bias", "s": "weight", "rm": "running_mean", "riv": "running_var"}
# Of the optimiser.
LEFT_OUT = re.compile(r"lr|model_iter|.*_momentum")


def read(path: Path) -> Arrays:
    """Reads a pickle, and nothing that is no array.

    Returns:
      Arrays by the names of PySlowFast.

    Raises:
      UserError: no such file, or one that holds anything else.
    """
    blobs = {
        name.removeprefix("blobs/"): array for name, array in pickled_arrays.read(path).items()
    }
    wanted = [name for name in blobs if not LEFT_OUT.fullmatch(name)]
    return {_pyslowfast(name, path): blobs[name] for name in wanted}


def _pyslowfast(blob: str, path: Path) -> str:
    """PySlowFast's name of an array."""
    layer, _, kind = blob.removeprefix("t_").rpartition("_")
    for pattern, replacement in LAYERS.items():
        if re.fullmatch(pattern, layer) and kind in ARRAYS:
            name = re.sub(pattern, replacement, layer)
            pathway = f"pathway{int(blob.startswith('t_'))}"
            return f"{name.replace('PATHWAY', pathway)}.{ARRAYS[kind]}"
    raise UserError(f"{path}: {blob} is no array of a ResNet of video-nonlocal-net or PySlowFast")
