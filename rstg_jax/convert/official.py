"""Converts checkpoints of the authors' TensorFlow-1 code; every variable must find its place.

Three kinds of released models: the small per-frame network of SyncMNIST, and C2D and I3D ResNets,
each with graphs at any of the official places, or with non-local blocks.

    python -m rstg_jax.convert.official PREFIX --config=FILE[:VARIANT] --out=DIR [--labels=FILE]

converts a checkpoint that TensorFlow wrote (PREFIX.index and PREFIX.data-*) to an ordinary
checkpoint directory; TensorFlow is not needed.
"""

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from flax import traverse_util

from rstg_jax import cli
from rstg_jax import config as config_lib
from rstg_jax.convert import tf_checkpoint
from rstg_jax.convert.official_block import (
    GRAPH_SCOPE,
    IGNORED,
    IN_GRAPH,
    Arrays,
    Flat,
    Reader,
    read_block,
)
from rstg_jax.errors import UserError, named
from rstg_jax.models.backbones.resnet3d import ResNet3DConfig
from rstg_jax.models.backbones.simple_cnn import SimpleCNNConfig
from rstg_jax.models.classifier import block_name
from rstg_jax.models.config import FINAL, ModelConfig
from rstg_jax.models.heads import NodePooling, RNNHead
from rstg_jax.training.experiment import Experiment

ANY_SCOPE = r".*/"


def convert_model(
    variables: Arrays, config: ModelConfig, num_classes: int, channels: int = 0
) -> dict:
    """Maps the variables of a released model to those of `classifier.build(config, num_classes)`.

    Args:
      variables: official names (without ":0") to arrays; constants, optimiser slots and counters
        may be among them.
      config: the model that the variables are for.
      num_classes: number of labels.
      channels: of the video; by default 1 for a `SimpleCNNConfig`, 3 for a ResNet.

    Returns:
      `{"params": ..., "batch_stats": ...}` (the latter only with batch norm).

    Raises:
      UserError: names every missing, unused and misshapen variable, or what the official code has
        no counterpart for.
    """
    if isinstance(config.head, RNNHead) or config.region_classes:
        raise UserError("the official release has no recurrent head and no auxiliary head")
    graphs: dict[str, dict[str, np.ndarray]] = {}
    others: dict[str, np.ndarray] = {}
    for name, value in variables.items():
        match = IN_GRAPH.search(name)
        (graphs.setdefault(match[1], {}) if match else others)[name] = value

    reader = Reader(others, ANY_SCOPE)
    flat, widths = _backbone(reader, config, channels)
    problems = []
    for place in config.resolved:
        scope = official_place(config, place)
        inside = Reader(graphs.pop(scope, {}), GRAPH_SCOPE)
        flat |= _graph(reader, inside, config, place, widths)
        problems += [f"{scope}: {problem}" for problem in inside.account()]
    problems += [f"unused graph {scope} ({len(left)} variables)" for scope, left in graphs.items()]

    reader.dense(flat, ("classifier",), "pred", (_classified(config, widths), num_classes))
    problems += reader.account()
    if problems:
        raise UserError(f"official variables do not fit the configuration: {named(problems)}")
    return traverse_util.unflatten_dict(flat)


def _backbone(reader: Reader, config: ModelConfig, channels: int) -> tuple[Flat, dict[str, int]]:
    """Variables of the backbone, and the width of the features at each place."""
    backbone = config.backbone
    if isinstance(backbone, SimpleCNNConfig):
        widths = {f"conv{i}": width for i, width in enumerate(backbone.features)}
        return _simple_cnn(reader, backbone, channels or 1), widths | {FINAL: backbone.features[-1]}
    if isinstance(backbone, ResNet3DConfig):
        widths = {p: _width(backbone, int(p[3])) for p in backbone.places}
        last = _width(backbone, len(backbone.depths) + 1)
        return _resnet(reader, backbone, channels or 3), widths | {FINAL: last}
    raise UserError(f"the official release has no backbone like {type(backbone).__name__}")


def _classified(config: ModelConfig, widths: Mapping[str, int]) -> int:
    """Width of what the classifier reads."""
    reads_nodes = isinstance(config.head, NodePooling) and not config.head.project_back
    return config.rstg.dim if reads_nodes else widths[FINAL]


def _graph(
    reader: Reader, inside: Reader, config: ModelConfig, place: str, widths: Mapping[str, int]
) -> Flat:
    """Variables of the block at a place, which `inside` has, and of its branch."""
    flat: Flat = {}
    block = read_block(inside, config.rstg, widths[place])
    read_out = place == FINAL and isinstance(config.head, NodePooling)
    if not read_out:
        _branch(reader, flat, config, place, widths[place])
    elif widths[FINAL] != _classified(config, widths):  # nodes are read before the projection back
        block = {path: value for path, value in block.items() if "project_out" not in path}
    prefix = (block_name(place),) if read_out else (block_name(place), "block")
    return flat | {(kind, *prefix, *path): value for (kind, *path), value in block.items()}


def official_place(config: ModelConfig, place: str) -> str:
    """Scope name of a place; raises `UserError` for places that the official code cannot have."""
    stage = place.split(".")[0]
    if place != FINAL and config.backbone.resolve(stage) != place:
        raise UserError(f"the official code has no graph at {place!r}, only at {stage!r}")
    return stage


def _branch(reader: Reader, flat: Flat, config: ModelConfig, place: str, width: int) -> None:
    """Norm and gain of a residual branch; in C2D models their names do not tell the place."""
    if config.branch_norm != "clip":
        raise UserError("official graphs inside a network have branch_norm 'clip'")
    name = block_name(place)
    prefix = f"{official_place(config, place)}_after_graph_ln"
    if not any(f"/{prefix}" in f"/{variable}" for variable in reader.left):
        prefix = "after_graph_ln"
    flat["params", name, "norm", "bias"] = reader.take(f"{prefix}/beta", (width,))
    flat["params", name, "scale"] = reader.take(f"{prefix}_scale", (width,))


def _simple_cnn(reader: Reader, config: SimpleCNNConfig, channels: int) -> Flat:
    """The convolutions of the per-frame network."""
    flat: Flat = {}
    for number, (features, kernel) in enumerate(zip(config.features, config.kernels, strict=True)):
        path, name = ("params", "backbone", f"conv{number}"), f"conv{number}/conv2d"
        shape = (kernel, kernel, channels, features)
        flat[*path, "kernel"] = reader.take(f"{name}/kernel", shape)
        flat[*path, "bias"] = reader.take(f"{name}/bias", (features,))
        channels = features
    return flat


def _resnet(reader: Reader, config: ResNet3DConfig, channels: int) -> Flat:
    """Stem, bottleneck and non-local blocks of a ResNet."""
    flat: Flat = {}
    shape = (*config.stem_kernel, channels, config.width)
    flat["params", "backbone", "conv1", "kernel"] = reader.take("backbone/conv1/kernel", shape)
    _batch_norm(reader, flat, ("conv1_bn",), "backbone/res_conv1_bn", config.width)
    channels = config.width
    non_local = {config.resolve(place) for place in config.non_local}
    for stage, block in config.blocks():
        inner, outer = _width(config, stage) // 4, _width(config, stage)
        kernels = config.temporal_kernels[stage - 2]
        layers = [
            ("branch2a", "conv1", "bn1", (kernels[block % len(kernels)], 1, 1, channels, inner)),
            ("branch2b", "conv2", "bn2", (1, 3, 3, inner, inner)),
            ("branch2c", "conv3", "bn3", (1, 1, 1, inner, outer)),
            ("branch1", "shortcut", "shortcut_bn", (1, 1, 1, channels, outer)),
        ]
        ours = f"res{stage}_{block}"
        for theirs, conv, norm, shape in layers if block == 0 else layers[:3]:
            name = f"backbone/{ours}_{theirs}"
            flat["params", "backbone", ours, conv, "kernel"] = reader.take(f"{name}/kernel", shape)
            _batch_norm(reader, flat, (ours, norm), f"{name}_bn", shape[-1])
        if f"res{stage}.{block}" in non_local:
            _non_local(reader, flat, f"{ours}_nonlocal", f"nonlocal_conv{stage}_{block}", outer)
        channels = outer
    return flat


def _non_local(reader: Reader, flat: Flat, ours: str, theirs: str, width: int) -> None:
    """One non-local block; its convolutions have biases."""
    inner = width // 2
    shapes = {"theta": (width, inner), "phi": (width, inner), "g": (width, inner)}
    for name, shape in (shapes | {"out": (inner, width)}).items():
        path = ("params", "backbone", ours, name)
        full = f"backbone/{theirs}_{name}"
        flat[*path, "kernel"] = reader.take(f"{full}/kernel", (1, 1, 1, *shape))
        flat[*path, "bias"] = reader.take(f"{full}/bias", shape[1:])
    _batch_norm(reader, flat, (ours, "bn"), f"backbone/{theirs}_bn", width)


def _batch_norm(reader: Reader, flat: Flat, path: tuple, name: str, width: int) -> None:
    reader.norm(flat, ("backbone", *path), re.escape(name), "batch", width)


def _width(config: ResNet3DConfig, stage: int) -> int:
    """Output channels of a stage."""
    return 4 * config.width * 2 ** (stage - 2)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser(
        "rstg_jax.convert.official",
        __doc__,
        epilog="Any key of the config can be changed: --config.model.rstg.dim=64",
    )
    files = "PREFIX of PREFIX.index and PREFIX.data-*, or the directory that they are in"
    parser.add_argument("checkpoint", metavar="PREFIX", help=files)
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help="of that model")
    parser.add_argument("--out", required=True, metavar="DIR", help="checkpoint directory to make")
    parser.add_argument("--labels", metavar="FILE", help="names of the classes, one a line")
    args, overrides = cli.parse(parser, argv, config_class=Experiment)
    from rstg_jax.convert import write  # Orbax is slow to import, and sets up logging

    experiment = config_lib.load(args.config)
    experiment = config_lib.override(experiment, overrides)
    write.check_free(args.out)
    prefix = tf_checkpoint.find(args.checkpoint)
    arrays = tf_checkpoint.read(prefix)
    heads = [value.size for name, value in arrays.items() if re.search(r"(^|/)pred/bias$", name)]
    if len(heads) != 1:
        raise UserError(f"{prefix} has no classifier (pred/bias): not a released model")
    shape = experiment.data.clip_shape
    variables = convert_model(arrays, experiment.model, heads[0], channels=shape[-1])
    write.write(
        args.out,
        experiment,
        variables,
        label_names=write.label_names(args.labels, heads[0], experiment.data),
        video_shape=shape,
        source={"name": prefix.name, "step": int(arrays.get("global_step", 0))},
    )
    kinds = Counter(
        match[0].strip("/").split("/")[0].split("__")[0]
        for match in map(IGNORED.search, arrays)
        if match
    )
    ignored = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    used = len(arrays) - kinds.total()
    print(f"{args.out}: {used} variables of {prefix}, {heads[0]} classes; ignored {ignored}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
