"""SyncMNIST made on the training devices: the host sends example numbers instead of videos."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from rstg_jax.data.batches import ENDLESS, Batch
from rstg_jax.data.sync_mnist import generator_jax
from rstg_jax.data.sync_mnist.online import provenance

if TYPE_CHECKING:
    from rstg_jax.data.sync_mnist.config import SyncMNISTConfig


class DeviceSyncMNIST:
    """Endless SyncMNIST for training, by `generator_jax`; satisfies `OnDevice`.

    Example i is a function of (seed, i); the examples differ from those of `OnlineSyncMNIST`.
    """

    fed = ("address",)

    def __init__(self, config: "SyncMNISTConfig"):
        self.spec = config.spec
        self.name = "SyncMNIST train split, made on the devices"
        self.label_names = self.spec.label_names
        self._seed, self._frame_size = config.seed, config.frame_size
        self._maps = config.frames == "maps"
        digits = config.load_digits("train")
        self.constants = generator_jax.sprites(self.spec, digits)
        self.provenance = provenance(config, "train", digits) | {"videos_from": "device"}

    def __len__(self) -> int:
        return ENDLESS

    def batch(self, indices: np.ndarray) -> Batch:
        """Examples int64 [b] -> the arrays of `make`, on the host."""
        address = {name: jnp.asarray(part) for name, part in self.address(indices).items()}
        made: Batch = jax.device_get(jax.jit(self.make)(self.constants, address))
        return made

    def address(self, indices: np.ndarray) -> Batch:
        """Examples int64 [b] -> {address: uint32 [b 2]}, the two halves of each number."""
        halves = np.stack([indices >> 32, indices & 0xFFFFFFFF], axis=1)
        return {"address": halves.astype(np.uint32)}

    def make(self, constants: Any, address: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Makes the addressed examples by `generator_jax.make_video`, with leading axis `b`.

        Args:
          constants: of this source.
          address: from `address`.
        """
        # A fixed generator, whatever JAX's configuration: another one would change the examples.
        run = jax.random.key(0, impl="threefry2x32")
        for half in (self._seed >> 32, self._seed & 0xFFFFFFFF):
            run = jax.random.fold_in(run, np.uint32(half))

        def one(index: jax.Array) -> dict[str, jax.Array]:
            key = jax.random.fold_in(jax.random.fold_in(run, index[0]), index[1])
            size, maps = self._frame_size, self._maps
            return generator_jax.make_video(key, constants, self.spec, size, maps)

        return jax.vmap(one)(address["address"])
