"""Official TensorFlow-1 variables of one graph to Flax variables of the RSTG block.

Every official name is mapped by a rule below; a variable that is missing, unused or misshapen is
named in the error. Names are those of the released checkpoints with `G/` for the graph's scope.
"""

import re
from collections.abc import Mapping

import numpy as np
from flax import traverse_util

from rstg_jax.errors import UserError, named
from rstg_jax.rstg.block import RSTGConfig

GRAPH_SCOPE = r"(.*/)?whole_graph_model_\w+/"
IN_GRAPH = re.compile(r"(?:^|/)whole_graph_model_(\w+)/")

Arrays = Mapping[str, np.ndarray]
Flat = dict[tuple[str, ...], np.ndarray]

# Constants and bookkeeping that the model makes itself. The canonical LSTM variables that a Saver
# writes beside `opaque_kernel` are the same weights once more.
IGNORED = re.compile(
    r"(^|/)(resize_filters__\w+|positional_emb|global_step|cudnn_compatible_lstm_cell/\w+)$"
    r"|/Momentum(_\d+)?$"
)


def convert_block(variables: Arrays, config: RSTGConfig, *, channels: int | None = None) -> dict:
    """Maps official variables of ONE graph to the block's variables.

    Args:
      variables: official names (without ":0") to arrays; constants may be among them.
      config: the block that the variables are for.
      channels: width c of the pooled features if it differs from `config.dim`.

    Returns:
      `{"params": ..., "batch_stats": ...}` (the latter only with batch norm) for
      `RSTG(config, project_back=True)`.

    Raises:
      UserError: names every missing, unused and misshapen variable.
    """
    reader = Reader(variables, GRAPH_SCOPE)
    several = sorted({match[1] for name in reader.left if (match := IN_GRAPH.search(name))})
    if len(several) > 1:
        reader.problems.append(f"several graphs ({', '.join(several)}): pass the variables of one")
    flat = read_block(reader, config, channels or config.dim)
    reader.finish()
    return traverse_util.unflatten_dict(flat)


def read_block(reader: "Reader", config: RSTGConfig, width: int) -> Flat:
    """Takes the variables of a block on features of `width` channels out of a reader."""
    flat: Flat = {}
    dim = config.dim
    if width != dim:
        reader.dense(flat, ("project_in",), "project_i3d", (width, dim))
    if config.input_batch_norm:
        reader.norm(flat, ("input_norm",), "batch_normalization", "batch", dim)
    suffix = {"none": "", "layer": "ln", "batch": "bn"}[config.post_norm]
    if suffix:
        reader.norm(flat, ("graph_norm",), f"before_graf_{suffix}", config.post_norm, dim)
    if "time" in config.stages[:-1]:
        reader.lstm(flat, ("time", "lstm"), "cudnn_lstm/opaque_kernel", config)
    if config.stages[-1] == "time":
        name = "time_update_extern/cudnn_lstm/opaque_kernel"
        reader.lstm(flat, ("last_time", "lstm"), name, config)
    if "space" in config.stages:
        _space(reader, flat, config, suffix)
    if width != dim:
        reader.dense(flat, ("project_out",), "project_back_to_i3d", (dim, width))
    return flat


def _space(reader: "Reader", flat: Flat, config: RSTGConfig, suffix: str) -> None:
    """Send, gather and update."""
    dim, norm = config.dim, config.post_norm
    positions = 36 if config.positions else 0
    scope = "send_messages_mlp"
    first = (2 * (dim + positions), dim)
    reader.dense(flat, ("space", "send", "first"), f"{scope}/send_conv1", first)
    reader.dense(flat, ("space", "send", "second"), f"{scope}/send_conv2", (dim, dim))
    if suffix:
        reader.norm(flat, ("space", "message_norm"), f"{scope}/message_{suffix}", norm, dim)
    _gather(reader, flat, config)
    if suffix and config.attention == "additive":
        reader.norm(flat, ("space", "gather_norm"), f"my_attn/att_{suffix}", norm, dim)

    scope = "update_node_mlp_" if config.update_per_scale else "update_node_mlp"
    groups = len(config.scales) if config.update_per_scale else 1
    for group in range(groups):
        ours = f"group{group}_" if groups > 1 else ""
        theirs = f"_type{group + 1}" if config.update_per_scale else ""
        layers = (("first", "update_conv1", 2 * dim), ("second", "update_conv2", dim))
        for layer, name, rows in layers[: config.update_layers]:
            path = ("space", "update", ours + layer)
            reader.dense(flat, path, f"{scope}/{name}{theirs}", (rows, dim))
    if suffix:
        reader.norm(flat, ("space", "update_norm"), f"{scope}/update_{suffix}", norm, dim)


def _gather(reader: "Reader", flat: Flat, config: RSTGConfig) -> None:
    """Attention weights; several heads are joined along the columns."""
    dim, heads = config.dim, config.num_heads
    scope = "my_attn" if config.attention == "additive" else "dot_product_attn"
    width = 1 if config.attention == "additive" else dim // heads
    scopes = [f"attention_head{h}/{scope}" for h in range(heads)] if heads > 1 else [scope]
    for ours, theirs in (("destination", "att_conv1"), ("source", "att_conv2")):
        names = [f"{scope}/{theirs}" for scope in scopes]
        reader.dense(flat, ("space", "gather", ours), names, (dim, width))
    if heads > 1:
        names = [f"attention_head{h}/messages_proj" for h in range(heads)]
        reader.dense(flat, ("space", "gather", "project"), names, (dim, dim // heads))
    biases = [reader.take(f"{scope}/att_bias/biases", (dim // heads,)) for scope in scopes]
    flat["params", "space", "gather_bias"] = np.concatenate(biases)


class Reader:
    """Takes variables by the end of their name and keeps account of what went wrong.

    Attributes:
      left: variables that nobody took yet.
      problems: what is missing or misshapen.
    """

    def __init__(self, variables: Arrays, scope: str = ""):
        self.left = {name: value for name, value in variables.items() if not IGNORED.search(name)}
        self.problems: list[str] = []
        self._scope = scope

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The variable `name` in the scope; leading kernel axes of length 1 are dropped."""
        pattern = re.compile(f"({self._scope}|){name}")
        full = [key for key in self.left if pattern.fullmatch(key)]
        if not full:
            self.problems.append(f"missing {name} {list(shape)}")
            return np.zeros(shape, np.float32)
        value = np.asarray(self.left.pop(full[0]), np.float32)
        if value.shape[-len(shape) :] != shape or value.size != np.prod(shape):
            self.problems.append(f"misshapen {full[0]} {list(value.shape)}, expected {list(shape)}")
            return np.zeros(shape, np.float32)
        return value.reshape(shape)

    def dense(self, flat: Flat, path: tuple, names: str | list[str], shape: tuple) -> None:
        """A linear layer, or several joined along their output columns."""
        names = [names] if isinstance(names, str) else names
        kernels = [self.take(f"{name}/kernel", shape) for name in names]
        biases = [self.take(f"{name}/bias", shape[1:]) for name in names]
        flat[("params", *path, "kernel")] = np.concatenate(kernels, axis=1)
        flat[("params", *path, "bias")] = np.concatenate(biases)

    def norm(self, flat: Flat, path: tuple, name: str, kind: str, dim: int) -> None:
        """Gain and bias, and for batch norm the moving statistics."""
        flat[("params", *path, "scale")] = self.take(f"{name}/gamma", (dim,))
        flat[("params", *path, "bias")] = self.take(f"{name}/beta", (dim,))
        if kind == "batch":
            flat[("batch_stats", *path, "mean")] = self.take(f"{name}/moving_mean", (dim,))
            flat[("batch_stats", *path, "var")] = self.take(f"{name}/moving_variance", (dim,))

    def lstm(self, flat: Flat, path: tuple, name: str, config: RSTGConfig) -> None:
        """A cuDNN LSTM: input and recurrent kernels, and its two bias vectors or their sum."""
        dim = config.dim
        opaque = self.take(name, (8 * dim * dim + 8 * dim,))
        # [input or recurrent, gate, out, in]; cuDNN's gates are i, f, c, o, ours are i, c, f, o as
        # in TensorFlow's canonical cell.
        kernels = opaque[: 8 * dim * dim].reshape(2, 4, dim, dim)
        gates = kernels[:, [0, 2, 1, 3]]
        columns = gates.transpose(0, 3, 1, 2).reshape(2, dim, 4 * dim)
        biases = opaque[8 * dim * dim :].reshape(2, 4, dim)[:, [0, 2, 1, 3]]
        flat[("params", *path, "input_kernel")] = columns[0]
        flat[("params", *path, "recurrent_kernel")] = columns[1]
        biases = biases.reshape(2, -1)
        if config.two_biases:
            flat[("params", *path, "bias")], flat[("params", *path, "recurrent_bias")] = biases
        else:
            flat[("params", *path, "bias")] = biases.sum(0)

    def account(self) -> list[str]:
        """Everything that was missing, misshapen or left over."""
        return self.problems + [f"unused {name}" for name in sorted(self.left)]

    def finish(self) -> None:
        """Raises `UserError` if there is anything in the account."""
        if problems := self.account():
            raise UserError(f"official variables do not fit the configuration: {named(problems)}")
