"""Heads on stored feature maps: any network as a frozen encoder, in front of RSTG.

    python -m rstg_jax.features --config=... --config.train.init_from=WEIGHTS --out=FEATURES
    python train.py --config=configs/features.py --config.data.path=FEATURES --workdir=DIR

rstg     The default. The mean of the map with the vector of an RSTG block added, and a linear
         classifier. The gain of the block starts at 0: the first logits are those of `probe`.
probe    Without the block: the linear classifier alone.
nodes    The classifier reads the nodes of the block, nothing else (to-vec).
gcn      Graph convolutions of Wang & Gupta ("joint GCN") on the same regions in place of the block.

docs/weights.md has what the variants reach on the Something-Something demo.
"""

import dataclasses

from rstg_jax import config
from rstg_jax.data import FeaturesConfig
from rstg_jax.models.backbones import IdentityConfig
from rstg_jax.models.config import ModelConfig
from rstg_jax.models.heads import GlobalPooling, NodePooling, RegionGCNHead
from rstg_jax.rstg import presets
from rstg_jax.training.experiment import Experiment, TrainConfig
from rstg_jax.training.optim import OptimizerConfig


def rstg() -> Experiment:
    """A block and a linear classifier."""
    return Experiment(
        name="features rstg",
        model=ModelConfig(
            backbone=IdentityConfig(),
            rstg=presets.modern(dim=64, iterations=1),
            head=GlobalPooling(),
        ),
        data=FeaturesConfig(),
        optim=OptimizerConfig(
            "muon", learning_rate=2e-2, warmup_steps=100, b2=0.98, weight_decay=1e-2, clip_norm=1.0
        ),
        train=TrainConfig(
            total_epochs=30.0,
            batch_size=16,
            log_every=25,
            eval_every=150,
            checkpoint_every=150,
        ),
    )


def probe() -> Experiment:
    """A linear classifier alone."""
    base = rstg()
    model = dataclasses.replace(base.model, rstg_at=())
    return dataclasses.replace(base, name="features probe", model=model)


def nodes() -> Experiment:
    """A block whose nodes are classified."""
    base = rstg()
    model = dataclasses.replace(base.model, head=NodePooling("mean"))
    return dataclasses.replace(base, name="features nodes", model=model)


def gcn() -> Experiment:
    """Graph convolutions on the regions of the block, with about as many parameters."""
    base = rstg()
    head = RegionGCNHead(scales=base.model.rstg.scales, dim=96)
    model = dataclasses.replace(base.model, rstg_at=(), head=head)
    return dataclasses.replace(base, name="features gcn", model=model)


VARIANTS = {"rstg": rstg, "probe": probe, "nodes": nodes, "gcn": gcn}


def get_config(variant: str = "rstg") -> Experiment:
    """Returns the experiment of a variant."""
    return config.choose(VARIANTS, variant)
