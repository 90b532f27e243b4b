"""The RSTG block and its SyncMNIST network in PyTorch: the peer of parity tests and benchmarks.

Written as the authors' PyTorch port computes the block: a stage runs on all frames at once, time
stages are `nn.LSTM` with every node as a row of the batch, and messages are an MLP of the full
concatenation of all ordered pairs of nodes, whether they are neighbours or not. Two things make it
faster than the port: pairs are expanded and not copied before they are concatenated, and the
features of the nodes stay contiguous, `[b n t d]`.

Constants (pooling, adjacency, position maps) and configurations are those of rstg_jax; everything
else is computed here. `copy_block` and `copy_classifier` take over rstg_jax's weights.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from rstg_jax.layers.norms import BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM
from rstg_jax.models.backbones.simple_cnn import SimpleCNNConfig
from rstg_jax.models.config import ModelConfig
from rstg_jax.models.heads import NodePooling
from rstg_jax.rstg.block import RSTGConfig
from rstg_jax.rstg.message_passing import LEAKY_SLOPE
from rstg_jax.rstg.region_graph import RegionGraph

Arrays = Mapping[str, Any]
GATES = (0, 2, 1, 3)  # PyTorch's order input, forget, candidate, output in rstg_jax's


def refuse_unknown(config: RSTGConfig) -> None:
    """Raises `ValueError` for choices that this file does not know."""
    known = {
        "num_heads": 1,
        "update_layers": 2,
        "update_per_scale": False,
        "post_norm": "none",
        "cell": "lstm",
    }
    for name, value in known.items():
        if getattr(config, name) != value:
            raise ValueError(f"the PyTorch peer knows {name}={value!r} only")
    if "spacetime" in config.stages:
        raise ValueError("the PyTorch peer knows the stages 'time' and 'space' only")


class Space(nn.Module):
    """Send, gather and update on `[b n t d]`."""

    def __init__(self, config: RSTGConfig, graph: RegionGraph):
        super().__init__()
        self.config, dim = config, config.dim
        maps = graph.position_maps if config.positions else graph.position_maps[:, :0]
        self.register_buffer("positions", torch.tensor(maps))
        self.register_buffer("adjacency", torch.tensor(graph.adjacency, dtype=torch.float32))
        width = 1 if config.attention == "additive" else dim
        self.norm = nn.LayerNorm(dim, eps=1e-6) if config.residual else nn.Identity()
        self.send = nn.Sequential(
            nn.Linear(2 * (dim + maps.shape[1]), dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU()
        )
        self.destination, self.source = nn.Linear(dim, width), nn.Linear(dim, width)
        self.gather_bias = nn.Parameter(torch.zeros(dim))
        self.update = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, nodes: torch.Tensor) -> torch.Tensor:
        x = self.norm(nodes)
        messages, weights = self._messages(x), self._attention(x)
        gathered = (weights[..., None] * messages).sum(2)
        gathered = functional.relu(gathered + self.gather_bias)
        updated = self.update(torch.cat([x, gathered], -1))
        return nodes + updated if self.config.residual else functional.relu(updated)

    def _messages(self, x: torch.Tensor) -> torch.Tensor:
        """Messages of all ordered pairs, `[b i j t d]`."""
        b, n, t, d = x.shape
        maps = self.positions[None, :, None].expand(b, n, t, -1)
        ends = torch.cat([x, maps], -1)
        source = ends[:, None].expand(b, n, n, t, -1)
        destination = ends[:, :, None].expand(b, n, n, t, -1)
        return self.send(torch.cat([source, destination], -1))

    def _attention(self, x: torch.Tensor) -> torch.Tensor:
        """Weights of all ordered pairs, `[b i j t]`."""
        config = self.config
        one, others = self.destination(x), self.source(x)
        mask = self.adjacency[:, :, None]
        excluding = config.masking == "exclude"
        if config.attention == "dot":
            logits = torch.einsum("bitd,bjtd->bijt", one, others)
            logits = logits * config.dim**-0.5 if excluding else logits * mask
        else:
            one, others = one[:, :, None, :, 0], others[:, None, :, :, 0]
            if not excluding:
                one, others = mask * one, mask * others
            logits = functional.leaky_relu(one + others, LEAKY_SLOPE)
            logits = logits if excluding else logits + mask
        if excluding:
            logits = logits.masked_fill(mask == 0, -torch.inf)
        return torch.softmax(logits, 2)


class RSTG(nn.Module):
    """The block, `[b t h w c]` -> `[b t n d]`.

    Args:
      config: Of rstg_jax; choices beyond those of `presets.official("sync_mnist")` and of
        `presets.modern` with one head raise `ValueError`.
      map_size: Rows and columns of the features.
      channels: Of the features.
    """

    def __init__(self, config: RSTGConfig, map_size: tuple[int, int], channels: int):
        super().__init__()
        refuse_unknown(config)
        self.config, dim = config, config.dim
        graph = config.regions(map_size)
        self.register_buffer("pool", torch.tensor(graph.pool))
        self.project_in = nn.Linear(channels, dim) if channels != dim else nn.Identity()
        if config.input_batch_norm:
            momentum = 1 - BATCH_NORM_MOMENTUM
            self.input_norm = nn.BatchNorm1d(dim, eps=BATCH_NORM_EPSILON, momentum=momentum)
        self.time, self.last_time = (nn.LSTM(dim, dim, batch_first=True) for _ in range(2))
        if config.residual:
            self.time_norm, self.last_time_norm, self.output_norm = (
                nn.LayerNorm(dim, eps=1e-6) for _ in range(3)
            )
        self.space = Space(config, graph)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        nodes = torch.einsum("nhw,bthwc->bntc", self.pool, features)
        nodes = self.project_in(nodes)
        b, n, t, d = nodes.shape
        if self.config.input_batch_norm:
            nodes = self.input_norm(nodes.reshape(-1, d)).reshape(b, n, t, d)
        for number, stage in enumerate(self.config.stages, start=1):
            if stage == "space":
                nodes = self.space(nodes)
            else:
                name = "last_time" if number == len(self.config.stages) else "time"
                nodes = self._time(name, nodes)
        if self.config.residual:
            nodes = self.output_norm(nodes)
        return nodes.transpose(1, 2)

    def _time(self, name: str, nodes: torch.Tensor) -> torch.Tensor:
        lstm, skip = getattr(self, name), self.config.residual
        x = getattr(self, f"{name}_norm")(nodes) if skip else nodes
        rows, _ = lstm(x.reshape(-1, *x.shape[2:]))
        rows = rows.reshape(nodes.shape)
        return nodes + rows if skip else rows


class CNN(nn.Module):
    """The small network of `SimpleCNNConfig` on every frame, `[b t h w c]` -> `[b t h' w' c']`."""

    def __init__(self, config: SimpleCNNConfig, frame: tuple[int, int, int]):
        super().__init__()
        self.config = config
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        self.pads: list[tuple[int, int, int, int]] = []
        side, channels = frame[0], frame[2]
        for features, kernel, stride in zip(
            config.features, config.kernels, config.strides, strict=True
        ):
            self.convs.append(nn.Conv2d(channels, features, kernel, stride))
            self.norms.append(nn.LayerNorm(features, eps=1e-6) if config.norm else nn.Identity())
            missing = max(0, (-(-side // stride) - 1) * stride + kernel - side)
            missing = missing if config.padding == "SAME" else 0
            before, after = missing // 2, missing - missing // 2  # as XLA pads
            self.pads.append((before, after, before, after))
            side = (side + missing - kernel) // stride + 1
            side, channels = side // 2 if config.max_pool else side, features
        self.map_size, self.channels = (side, side), channels
        if config.position_embedding:
            self.position_embedding = nn.Parameter(torch.zeros(side, side, channels))
            self.mix = nn.Linear(channels, channels)
            self.mix_norm = nn.LayerNorm(channels, eps=1e-6) if config.norm else nn.Identity()

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        config = self.config
        b, t = video.shape[:2]
        x = (video.to(torch.float32) - config.input_mean) / config.input_scale
        x = x.flatten(0, 1).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        for conv, norm, pads in zip(self.convs, self.norms, self.pads, strict=True):
            x = functional.relu(conv(functional.pad(x, pads) if any(pads) else x))
            x = functional.max_pool2d(x, 2) if config.max_pool else x
            if config.norm:
                x = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = x.permute(0, 2, 3, 1)
        if config.position_embedding:
            x = self.mix_norm(functional.relu(self.mix(x + self.position_embedding)))
        return x.reshape(b, t, *x.shape[1:])


class Classifier(nn.Module):
    """CNN, block, mean over frames of the nodes' sum or mean, linear classifier: video -> logits.

    Args:
      config: With a `SimpleCNNConfig`, one block at "final" and no auxiliary head, else raises
        `ValueError`.
      clip_shape: `(t, h, w, c)`, square frames.
      classes: Number of labels.
    """

    def __init__(self, config: ModelConfig, clip_shape: tuple[int, int, int, int], classes: int):
        super().__init__()
        if (config.rstg_at, config.region_classes) != (("final",), 0):
            raise ValueError("the PyTorch peer knows one block at 'final' only")
        if not isinstance(config.backbone, SimpleCNNConfig):
            raise ValueError("the PyTorch peer knows the backbone SimpleCNNConfig only")
        if config.head not in (NodePooling("sum"), NodePooling("mean")):
            raise ValueError(
                "the PyTorch peer knows the heads that are sums or means of nodes only"
            )
        self.node_sum = config.head.node_sum
        self.backbone = CNN(config.backbone, clip_shape[1:])
        self.rstg = RSTG(config.rstg, self.backbone.map_size, self.backbone.channels)
        self.classifier = nn.Linear(config.rstg.dim, classes)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        nodes = self.rstg(self.backbone(video))
        frames = nodes.sum(2) if self.node_sum == "sum" else nodes.mean(2)
        return self.classifier(frames.mean(1))


# --- weights of rstg_jax --------------------------------------------------------------------------


def copy_block(block: RSTG, variables: Arrays) -> None:
    """Gives a block the variables of `rstg_jax.rstg.RSTG`.

    Raises:
      ValueError: A weight is missing, left over or misshapen; names it.
    """
    _load(block, block_state(variables["params"], variables.get("batch_stats", {}), block.config))


def copy_classifier(model: Classifier, variables: Arrays) -> None:
    """The same for a whole model of `rstg_jax.models.classifier`."""
    params, stats = variables["params"], variables.get("batch_stats", {})
    state = block_state(params["rstg_final"], stats.get("rstg_final", {}), model.rstg.config)
    state = {f"rstg.{name}": value for name, value in state.items()}
    state |= _dense("classifier", params["classifier"])
    for name, part in params["backbone"].items():
        if name == "position_embedding":
            state["backbone.position_embedding"] = part
        elif name == "mix":
            state |= _dense("backbone.mix", part)
        elif name == "mix_norm":
            state |= _norm("backbone.mix_norm", part)
        elif name.startswith("norm"):
            state |= _norm(f"backbone.norms.{name.removeprefix('norm')}", part)
        else:
            place = f"backbone.convs.{name.removeprefix('conv')}"
            state[f"{place}.weight"] = np.transpose(part["kernel"], (3, 2, 0, 1))
            state[f"{place}.bias"] = part["bias"]
    _load(model, state)


def block_state(params: Arrays, stats: Arrays, config: RSTGConfig) -> dict[str, Any]:
    """A block's weights (or gradients) in rstg_jax -> the same by the names here.

    The second bias of an LSTM that rstg_jax has not is 0.
    """
    space = params["space"]
    state = _dense("space.send.0", space["send"]["first"])
    state |= _dense("space.send.2", space["send"]["second"])
    state |= _dense("space.destination", space["gather"]["destination"])
    state |= _dense("space.source", space["gather"]["source"])
    state |= _dense("space.update.0", space["update"]["first"])
    state |= _dense("space.update.2", space["update"]["second"])
    state["space.gather_bias"] = space["gather_bias"]
    for name in ("time", "last_time"):
        state |= _lstm(name, params[name]["lstm"])
        if config.residual:
            state |= _norm(f"{name}_norm", params[name]["norm"])
    if config.residual:
        state |= _norm("space.norm", space["norm"]) | _norm("output_norm", params["output_norm"])
    if "project_in" in params:
        state |= _dense("project_in", params["project_in"])
    if config.input_batch_norm:
        state |= _norm("input_norm", params["input_norm"])
        for here, there in (("running_mean", "mean"), ("running_var", "var")):
            if stats:
                state[f"input_norm.{here}"] = stats["input_norm"][there]
    return state


def _dense(name: str, layer: Arrays) -> dict[str, Any]:
    return {f"{name}.weight": np.transpose(layer["kernel"]), f"{name}.bias": layer["bias"]}


def _norm(name: str, layer: Arrays) -> dict[str, Any]:
    return {f"{name}.weight": layer["scale"], f"{name}.bias": layer["bias"]}


def _lstm(name: str, layer: Arrays) -> dict[str, Any]:
    bias = np.asarray(layer["bias"])
    weights = {
        "weight_ih_l0": layer["input_kernel"],
        "weight_hh_l0": layer["recurrent_kernel"],
        "bias_ih_l0": bias,
        "bias_hh_l0": layer.get("recurrent_bias", np.zeros_like(bias)),
    }
    state = {}
    for part, value in weights.items():
        gates = np.split(np.asarray(value), 4, axis=-1)
        state[f"{name}.{part}"] = np.concatenate([gates[g] for g in GATES], axis=-1).T
    return state


def _load(module: nn.Module, state: Arrays) -> None:
    """Copies arrays by name into all weights and running statistics of a module."""
    constants = ("pool", "positions", "adjacency", "num_batches_tracked")
    wanted = {
        name: tensor
        for name, tensor in module.state_dict().items()
        if name.rpartition(".")[2] not in constants
    }
    shapes = {name: tuple(np.shape(value)) for name, value in state.items()}
    wrong = [name for name in wanted | shapes if shapes.get(name) != _shape(wanted.get(name))]
    if wrong:
        raise ValueError(f"weights that are missing, left over or misshapen: {', '.join(wrong)}")
    for name, value in state.items():
        wanted[name].copy_(torch.tensor(np.array(value)))


def _shape(tensor: torch.Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)
