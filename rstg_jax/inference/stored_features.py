"""Stores the feature maps that a network makes of every clip of a split.

Several processes take the missing shards in turn and make them by themselves: a map depends neither
on their number nor on who makes it. The first one writes all other files.
"""

import contextlib
import logging
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from rstg_jax import config, data, files, processes, storage
from rstg_jax.convert.export import portable
from rstg_jax.data import array_records, features
from rstg_jax.errors import UserError, named, reason
from rstg_jax.inference.evaluation import open_named
from rstg_jax.training import (
    agreement,
    checkpoint,
    eval_loop,
    lock,
    sharding,
    steps,
    train_state,
    trained_model,
    weights_file,
)
from rstg_jax.training import weights as weights_lib

SHARD_BYTES, SHARD_CLIPS = 64 << 20, 1024  # the most that a killed run has to make again
UNFINISHED = ".unfinished"  # ends the name of a description while shards are missing
# Fields of `StoredSplit` that differ from split to split, and those that change no feature map.
_OF_SPLIT = ("split", "examples", "shard_size", "labelled", "videos.")
_OF_PLACE = ("network.name", "config_hash", "weights.from")

_log = logging.getLogger(__name__)


def store(
    model: trained_model.TrainedModel,
    weights_from: str,
    directory: storage.Path,
    split: str | None,
    dtype: features.DType,
) -> features.StoredSplit:
    """Stores the feature maps of a split, one view of each clip, as in testing.

    Shards that are there are kept. The bytes of a shard depend on nothing that an interruption
    changes, nor on the number of processes, if each has as many devices.

    Args:
      model: the network and its data.
      weights_from: where its weights are from, for the record.
      directory: where to write, the same for all processes.
      split: own name of the split, see `DataConfig.with_split`.
      dtype: one of `features.DTYPES`.

    Raises:
      UserError: the directory has feature maps of another network or of other clips, or something
        else; a shard is damaged or cannot be written; or a value is too large for the dtype.
    """
    if model.data.multi_label:
        raise UserError(
            "stored features have one label each; videos of these data may have several"
        )
    source, name = open_named(model.data.single_view(), split)
    agreement.check(model.experiment, {name: source})
    model = on_own_devices(model)
    data.refuse_endless(source)
    batch_size = eval_loop.eval_batch_size(model.experiment.train.max_eval_clips, model.mesh)
    feature_maps = jit_feature_maps(model, dtype)
    stored = description(model, weights_from, source, name, dtype, batch_size)
    agreement.check_same(
        {"the checksum of the weights": stored.weights["sha256"], "--dtype": dtype}
    )
    first = jax.process_index() == 0
    refuse_others(directory)
    try:
        with storage.errors(directory), alone_in(directory) if first else contextlib.nullcontext():
            known = check_claim(directory, stored)
            processes.wait_for_all()  # nobody writes before all have looked
            if first:
                claim(model, stored, directory, known)
            write_shards(model, feature_maps, stored, source, directory, batch_size)
            processes.wait_for_all()
            if first:
                finish(stored, directory)
            processes.wait_for_all()
    except OSError as error:
        place = error.filename or directory
        raise UserError(f"{place}: {reason(error)}; {array_records.RESUME}") from error
    return stored


def on_own_devices(model: trained_model.TrainedModel) -> trained_model.TrainedModel:
    """The model on the devices of this process alone; unchanged if it is the only process."""
    if jax.process_count() == 1:
        return model
    whole = jax.jit(lambda tree: tree, out_shardings=sharding.replicated(model.mesh))(
        model.variables
    )
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.local_devices())
    here = sharding.replicated(mesh)
    return model._replace(
        variables=jax.tree.map(
            lambda leaf: jax.device_put(np.asarray(leaf.addressable_data(0)), here), whole
        ),
        abstract=jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
            model.abstract,
        ),
        mesh=mesh,
    )


def alone_in(directory: storage.Path) -> contextlib.AbstractContextManager[Any]:
    """Lets one job write into a directory: a second one waits, in a bucket it is refused."""
    if isinstance(directory, pathlib.Path):
        return array_records.one_process_at_a_time(directory / ".lock")
    return lock.Lock(directory / ".lock")


def jit_feature_maps(
    model: trained_model.TrainedModel, dtype: features.DType
) -> Callable[..., jax.Array]:
    """Compiles the part of a network up to the features that its head or last block reads.

    Returns:
      A function of the variables and a batch to feature maps `[b t h w c]` in a dtype.
    """

    def feature_maps(variables: Mapping[str, Any], batch: steps.Batch) -> jax.Array:
        whole = sharding.gather_weights(variables, model.mesh)
        _, out = model.module.apply(whole, batch["video"], train=False)
        maps: jax.Array = out["features"]
        return maps.astype(features.DTYPES[dtype])

    rows = sharding.batch_sharding(model.mesh)
    given = (train_state.shardings_of(model.abstract), rows)
    return jax.jit(feature_maps, in_shardings=given, out_shardings=rows)


def description(
    model: trained_model.TrainedModel,
    weights_from: str,
    source: data.Source,
    split: str,
    dtype: features.DType,
    batch_size: int,
) -> features.StoredSplit:
    """What a split will hold; nothing is computed but the checksum of the weights."""
    if model.data.num_boxes:
        raise UserError(
            "feature maps are stored without the boxes that this network's head reads: set "
            "data.boxes.per_frame=0 and model.head.regions=grids to store its maps"
        )
    clip = data.checked_batch(source, np.zeros(1, np.int64))["video"].shape[1:]
    shape = jax.eval_shape(
        lambda variables, video: model.module.apply(variables, video, train=False)[1]["features"],
        model.abstract,
        jax.ShapeDtypeStruct((1, *clip), np.uint8),
    ).shape[1:]
    clip_bytes = int(np.prod(shape)) * features.DTYPES[dtype].itemsize
    # Whole batches, so that a batch is the same whatever shards are missing.
    batches = max(1, min(SHARD_BYTES // clip_bytes, SHARD_CLIPS) // batch_size)
    network = config.to_dict(portable(model.experiment))
    return features.StoredSplit(
        split=split,
        shape=shape,
        dtype=dtype,
        examples=len(source),
        shard_size=batches * batch_size,
        labelled=data.labelled(source),
        label_names=tuple(source.label_names),
        network={key: network[key] for key in ("name", "model", "data")},
        config_hash=config.config_hash(model.experiment),
        weights={
            "sha256": weights_lib.checksum(model.experiment, model.variables),
            "from": weights_from,
        },
        videos=checkpoint.plain(eval_loop.provenance(source)),
    )


def refuse_others(directory: storage.Path) -> None:
    """Raises `UserError` if a directory holds something, but no feature maps, not even begun."""
    local = isinstance(directory, pathlib.Path)
    names = [p.name for p in directory.iterdir()] if local else storage.names_in(directory)
    # A name with a dot in front is the lock, or what a kill has left.
    names = sorted(name for name in names if not name.startswith("."))
    if names and not any(is_description(name) or ".array_record" in name for name in names):
        raise UserError(
            f"{directory}: is not empty and holds no feature maps, but {named(names, ', ')}; "
            "choose another --out"
        )


def is_description(name: str) -> bool:
    """Whether a file has the name of a description, perhaps of a split that is unfinished."""
    return name.removesuffix(UNFINISHED).endswith(".json")


def check_claim(directory: storage.Path, stored: features.StoredSplit) -> bool:
    """Whether a directory has the description of a split.

    Raises:
      UserError: the directory has feature maps of another network or of other clips.
    """
    known = False
    # A name with a dot in front is a file that was never finished, see `files.replacing`.
    names = [name for name in storage.names_in(directory) if not name.startswith(".")]
    for name in names:
        if not is_description(name):
            continue
        there = features.read_description(directory / name)
        same_split = there.split == stored.split
        ignored = _OF_PLACE if same_split else (*_OF_PLACE, *_OF_SPLIT)
        found = [
            line
            for line in config.diff(there, stored)
            if not line.startswith(ignored) and ("sha256" in line or not line.startswith("videos."))
        ]
        if found:
            raise UserError(
                f"{directory / name}: describes other feature maps (there != here): "
                f"{'; '.join(found)}; choose another --out"
            )
        known = known or same_split
    if not known and any(name.startswith(f"{stored.split}.array_record") for name in names):
        raise UserError(
            f"{directory}: has shards of {stored.split} but not their description; choose "
            "another --out, or delete them"
        )
    return known


def claim(
    model: trained_model.TrainedModel,
    stored: features.StoredSplit,
    directory: storage.Path,
    known: bool,
) -> None:
    """Removes what a kill has left, and writes network and description unless they are there."""
    if isinstance(directory, pathlib.Path):
        for leftover in directory.glob(".part*"):
            leftover.unlink()
    if not known:
        path = directory / f"{stored.split}.json{UNFINISHED}"
        files.write_json(path, config.to_dict(stored))
    if not (directory / features.NETWORK).exists():
        write_network(model, stored, directory / features.NETWORK)


def finish(stored: features.StoredSplit, directory: storage.Path) -> None:
    """Gives the description its name when all shards are there; raises `UserError` if not."""
    stored.check_shards(directory)
    unfinished = directory / f"{stored.split}.json{UNFINISHED}"
    if unfinished.exists():
        files.write_text(directory / f"{stored.split}.json", files.read_text(unfinished))
        unfinished.unlink()


def write_network(
    model: trained_model.TrainedModel, stored: features.StoredSplit, path: storage.Path
) -> None:
    """Writes the network, so that a head that was trained on its maps can be put behind it."""
    whole = weights_lib.Weights(
        portable(model.experiment),
        model.variables,
        model.label_names,
        {"from": stored.weights["from"]},
    )
    weights_file.write(path, whole)


def write_shards(
    model: trained_model.TrainedModel,
    feature_maps: Callable[..., jax.Array],
    stored: features.StoredSplit,
    source: data.Source,
    directory: storage.Path,
    batch_size: int,
) -> None:
    """Makes this process's share of the missing shards; the arguments are those of `store`."""
    missing = own_share(stored, directory)
    if not missing:
        return
    indices = np.concatenate([np.array(stored.clips(shard)) for shard in missing])
    size = len(indices) * int(np.prod(stored.shape)) * features.DTYPES[stored.dtype].itemsize
    free = ""
    if isinstance(directory, pathlib.Path):
        free = f"; {shutil.disk_usage(directory).free / 1e9:.2f} GB are free"
    _log.info(
        "%s: %d of %d clips to make here, feature maps %s %s, up to %.2f GB%s",
        *(source.name, len(indices), stored.examples, list(stored.shape), stored.dtype),
        *(size / 1e9, free),
    )
    chosen = data.Chosen(source, indices)
    records: list[bytes] = []
    parts = eval_loop.outputs(feature_maps, model.variables, chosen, model.mesh, batch_size)
    with contextlib.closing(parts):
        for maps, batch in parts:
            records += encoded(maps, batch, indices, stored)
            if len(records) < len(stored.clips(missing[0])):
                continue
            with array_records.shard_writer(stored.path(directory, missing.pop(0))) as write:
                for record in records:
                    write(record)
            records = []


def own_share(stored: features.StoredSplit, directory: storage.Path) -> list[int]:
    """Every n-th of the missing shards for each of n processes, as the first one sees them."""
    absent = np.zeros(stored.num_shards, np.int32)
    absent[stored.missing(directory)] = 1
    if jax.process_count() > 1:
        absent = multihost_utils.broadcast_one_to_all(absent)
    return list(map(int, np.flatnonzero(absent)[jax.process_index() :: jax.process_count()]))


def encoded(
    maps: np.ndarray, batch: data.Batch, indices: np.ndarray, stored: features.StoredSplit
) -> list[bytes]:
    """Records of the rows of a batch that are no padding.

    Raises:
      UserError: a value is not finite in the dtype.
    """
    records = []
    for row in np.flatnonzero(batch["mask"]):
        index = indices[batch["index"][row]]
        name = str(batch["id"][row]) if "id" in batch else str(index)
        if not np.isfinite(maps[row]).all():
            raise UserError(
                f"the feature map of {name} ({stored.split} {index}) has values that are not "
                f"finite as {stored.dtype}: choose another --dtype"
            )
        records.append(features.encode(maps[row], int(batch["label"][row]), name))
    return records
