"""Where arrays live: the mesh, its axes and the partition rules. No other file names an axis.

The mesh has three axes: ``data`` (batch only), ``fsdp`` (batch, and parameters cut along their
inputs) and ``model`` (parameters cut along their outputs). A parameter's logical axes follow from
its path by `RULES`, the mesh axis of a logical axis from `LOGICAL_TO_MESH`. A dimension that does
not divide over its mesh axis is replicated.
"""

import dataclasses
import functools
import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rstg_jax.errors import UserError

AXES = ("data", "fsdp", "model")
BATCH_AXES = ("data", "fsdp")

# The first pattern found in the path of a leaf of the state (parameters, their moments and their
# average alike) gives the logical names of its LAST dimensions; the ones before are replicated.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"kernel$", ("inputs", "outputs")),
    (r".*", ()),
)
LOGICAL_TO_MESH: Mapping[str, str] = {"inputs": "fsdp", "outputs": "model"}

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Number of devices along each mesh axis; one of them may be -1 for all that are left."""

    data: int = -1
    fsdp: int = 1
    model: int = 1

    def __post_init__(self) -> None:
        sizes = (self.data, self.fsdp, self.model)
        if any(s == 0 or s < -1 for s in sizes) or sizes.count(-1) > 1:
            raise UserError(f"mesh sizes {sizes} must be positive, at most one of them -1")


def make_mesh(
    config: MeshConfig,
    devices: Sequence[jax.Device] | None = None,
    or_data_parallel: bool = False,
) -> Mesh:
    """Lays the devices out as data x fsdp x model, neighbours in an axis close in the machine.

    Args:
      config: size of each axis.
      devices: all devices of all processes by default. A single process may use fewer than it
        has; then the first ones are taken.
      or_data_parallel: if the sizes do not fit the devices, cut only the batch, over all of them:
        a checkpoint can be read on any machine.

    Raises:
      UserError: the sizes do not fit the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.model]
    known = int(np.prod([s for s in sizes if s > 0]))
    sizes = [len(devices) // known if s == -1 else s for s in sizes]
    used = int(np.prod(sizes))
    shape = _described(sizes)
    exact = -1 in (config.data, config.fsdp, config.model) or jax.process_count() > 1
    if used > len(devices) or used == 0 or (exact and used != len(devices)):
        if or_data_parallel:
            _log.info("mesh %s does not fit %d devices: data-parallel", shape, len(devices))
            return make_mesh(MeshConfig(), devices)
        raise UserError(f"mesh {shape} does not fit {len(devices)} devices; change config.mesh")
    if used < len(devices):
        _log.info("mesh %s uses %d of %d devices", shape, used, len(devices))
    return Mesh(arrange(sizes, devices[:used]), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def arrange(sizes: Sequence[int], devices: Sequence[jax.Device]) -> np.ndarray:
    """Orders devices by the topology of their machine.

    Between slices (TPU pods or machines with GPUs that only a network joins) links are slow. The
    outer axes extend over them as far as possible, `data` first.

    Returns:
      The devices, of shape `sizes`.

    Raises:
      UserError: the axes cannot be cut at the borders of the slices.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        axis_types = (AxisType.Auto,) * len(AXES)
        return jax.make_mesh(sizes, AXES, axis_types, devices=devices).devices
    within, between, left = list(sizes), [1] * len(sizes), slices
    for axis, size in enumerate(sizes):
        between[axis] = math.gcd(size, left)
        within[axis] //= between[axis]
        left //= between[axis]
    if left > 1:
        raise UserError(
            f"mesh {_described(sizes)} cannot be cut into {slices} slices of connected devices; "
            f"make config.mesh.data a multiple of {slices}"
        )
    return mesh_utils.create_hybrid_device_mesh(
        within, between, devices, allow_split_physical_axes=True
    )


def _described(sizes: Sequence[int]) -> str:
    return " x ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of every array of a batch: its first dimension over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_devices(mesh: Mesh) -> int:
    """Number of parts that a batch is cut into."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


def processes_of(mesh: Mesh) -> list[int]:
    """Numbers of the processes that have devices of a mesh, in order."""
    return sorted({device.process_index for device in mesh.devices.flat})


def check_batch_size(batch_size: int, mesh: Mesh, key: str, parts: int = 1) -> None:
    """Raises `UserError` naming the config key if a global batch cannot be cut evenly.

    Args:
      batch_size: number of videos.
      mesh: the mesh.
      key: of `batch_size`.
      parts: into which each device cuts its videos.
    """
    devices, processes = batch_devices(mesh), jax.process_count()
    pieces = math.lcm(devices * parts, processes)
    if batch_size % pieces:
        up = -(-batch_size // pieces) * pieces
        cut = f", cut into {parts} parts by train.accumulate," if parts > 1 else ""
        raise UserError(
            f"config key {key!r}: {batch_size} is not divisible by the {devices} devices that "
            f"share a batch{cut} ({processes} processes); use {up}"
        )


def partition_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Returns the mesh axes of an array's dimensions by the rules above.

    Args:
      path: the leaf's path in the state, such as ``params/head/kernel``.
      shape: its shape.
      mesh: the mesh.
    """
    names = next(names for pattern, names in RULES if re.search(pattern, path))
    if len(names) > len(shape):
        return PartitionSpec()
    axes: list[str | None] = [None] * (len(shape) - len(names))
    for size, name in zip(shape[len(shape) - len(names) :], names, strict=True):
        axis = LOGICAL_TO_MESH.get(name) if name else None
        if axis and size % mesh.shape[axis]:
            _log_replicated(path, shape, axis, mesh.shape[axis])
            axis = None
        axes.append(axis if axis and mesh.shape[axis] > 1 else None)
    return PartitionSpec(*axes)


@functools.cache
def _log_replicated(path: str, shape: tuple[int, ...], axis: str, size: int) -> None:
    if path.startswith("params/"):  # moments and average follow their parameter
        _log.info("%s %s does not divide over %s=%d: replicated", path, shape, axis, size)


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """Maps a tree of (abstract) arrays to the tree of their shardings."""

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, partition_spec(name, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(one, state)


def gather_weights(variables: Any, mesh: Mesh) -> Any:
    """Gathers weights along ``fsdp`` where they are used, inside a jitted step.

    Batch and weights are both cut along ``fsdp``, so a product of the two has to gather one of
    them; it should be the weights, and their gradient is then scattered back. Without this
    constraint XLA (jaxlib 0.10.2 and 0.12.0) chooses otherwise on meshes with three axes and
    computes WRONG gradients of such products, see `benchmarks/mesh_gradients.py`.
    """

    def one(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = partition_spec(name, leaf.shape, mesh)
        whole = PartitionSpec(*(None if axis == "fsdp" else axis for axis in spec))
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, whole))

    return jax.tree_util.tree_map_with_path(one, variables)


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this process's rows of a batch on the mesh, as rows of the global arrays."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }
