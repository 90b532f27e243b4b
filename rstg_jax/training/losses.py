"""The training loss: masked cross-entropy of the clip's label, or of each of several labels."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp

from rstg_jax.errors import UserError
from rstg_jax.models.region_heads import REGION_OUTPUTS
from rstg_jax.training import attention_loss, lone_object_loss, map_loss, region_loss

Kind = Literal["softmax", "sigmoid"]
Output = Mapping[str, Any]  # intermediates of the model
Batch = Mapping[str, jax.Array]
# Weights of tasks that need to know the objects.
AUXILIARY = ("region_weight", "lone_weight", "attention_weight", "map_weight")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Cross-entropy of the clip's label.

    Attributes:
      reduction: "mean" over the real examples of the global batch, or "sum" over them, which is
        the official code's choice (its rate then corresponds to rate x batch for a mean).
      label_smoothing: share of the target spread evenly over all classes, or with "sigmoid" over
        yes and no of each class.
      clip_weight: weight of the cross-entropy itself; 0 trains auxiliary tasks alone.
      frame_weight: weight of an extra cross-entropy of every frame's own logits with the clip's
        label, averaged over the frames from `frame_start` on. In training only.
      frame_start: first frame, from 0, by which the label can be known.
      frame_target: what each frame's own logits are compared with: the label of the "clip", or
        what would be the label if the clip ended with this "frame", for data that know it.
      region_weight: weight of the auxiliary task of `rstg_jax.training.region_loss`, for models
        with its head and data with known objects.
      lone_weight: likewise of the task of `rstg_jax.training.lone_object_loss`.
      attention_weight: likewise of the task of `rstg_jax.training.attention_loss`, for models with
        space stages and `region_classes`, `lone_objects` or `rstg.objects`.
      attention_start: first frame, from 0, by which motions can be compared.
      map_weight: likewise of the task of `rstg_jax.training.map_loss`.
      kind: "softmax" where a clip has exactly one label; "sigmoid" where it has any number of them,
        see `DataConfig.multi_label`: every class is then a yes or no of its own.
    """

    reduction: Literal["mean", "sum"] = "mean"
    label_smoothing: float = 0.0
    clip_weight: float = 1.0
    frame_weight: float = 0.0
    frame_start: int = 0
    frame_target: Literal["clip", "frame"] = "clip"
    region_weight: float = 0.0
    lone_weight: float = 0.0
    attention_weight: float = 0.0
    attention_start: int = 1
    map_weight: float = 0.0
    kind: Kind = "softmax"

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing={self.label_smoothing} is outside [0, 1)")
        weights = ("clip_weight", "frame_weight", *AUXILIARY)
        for name in (*weights, "frame_start", "attention_start"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} cannot be negative")
        if not any(getattr(self, name) for name in weights):
            raise UserError("all weights of the loss are 0: " + ", ".join(weights))

    @property
    def needs_objects(self) -> bool:
        """Whether an auxiliary task needs classes and places of the objects."""
        return any(getattr(self, name) > 0 for name in AUXILIARY)

    @property
    def needs_frame_labels(self) -> bool:
        """Whether a label for each frame is needed."""
        return self.frame_weight > 0 and self.frame_target == "frame"

    @property
    def batch_keys(self) -> tuple[str, ...]:
        """The arrays of a batch that training reads whatever the network, see `Experiment`."""
        frames = ("frame_label",) if self.needs_frame_labels else ()
        objects: tuple[str, ...] = ()
        if self.needs_objects:
            objects = ("object_class", "object_center", "object_in_pair")
        return ("video", "label", "mask", *frames, *objects)


def cross_entropy(logits: jax.Array, label: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy in nats, in float32: of softmax for one label, of sigmoids for a set of them.

    Args:
      logits: [... classes].
      label: int [...], the number of the one label; or 0/1 [... classes], whether each of them is
        there, for the mean over the classes of their binary cross-entropies.
      label_smoothing: see `LossConfig`.

    Returns:
      float32 [...].
    """
    logits = logits.astype(jnp.float32)
    if label.ndim == logits.ndim:
        target = (1 - label_smoothing) * label + label_smoothing / 2
        return (jax.nn.softplus(logits) - target * logits).mean(-1)
    log_p = jax.nn.log_softmax(logits)
    true = jnp.take_along_axis(log_p, label[..., None], axis=-1)[..., 0]
    return -(1 - label_smoothing) * true - label_smoothing * log_p.mean(-1)


def probabilities(logits: jax.Array, kind: Kind) -> jax.Array:
    """Probabilities of the classes, float32 `[... classes]`; those of "softmax" add up to 1."""
    function = jax.nn.softmax if kind == "softmax" else jax.nn.sigmoid
    return function(logits.astype(jnp.float32))


def check_starts(config: LossConfig, out: Output) -> None:
    """Raises `UserError` where a term of the objective is to begin behind the last frame.

    Args:
      config: see `LossConfig`.
      out: the model's intermediates, or their shapes. Temporal pooling makes fewer frames than a
        clip has.
    """
    for weight, key, start, name, axis in (
        (config.frame_weight, "frame_start", config.frame_start, "frame_logits", 1),
        (config.attention_weight, "attention_start", config.attention_start, "attention", 2),
    ):
        if weight and start >= (frames := out[name].shape[axis]):
            raise UserError(f"loss.{key}={start} leaves none of the {frames} frames")


def objective(
    config: LossConfig, logits: jax.Array, out: Output, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    """The scalar that training minimises.

    Args:
      config: see `LossConfig`.
      logits: [b classes] of the whole clip.
      out: the model's intermediates; ``out["frame_logits"]`` [b t classes], and for the auxiliary
        tasks ``out["object_map"]`` and those of `rstg_jax.models.region_heads.predict`.
      batch: label int [b] or 0/1 [b classes], mask [b] (1 for a real example, 0 for padding),
        frame_label int [b t] if that is asked for and, for the auxiliary tasks, object_class,
        object_center and object_in_pair.

    Returns:
      The objective, and its sum over the real examples whatever the reduction (for the log).
    """
    label, mask = batch["label"], batch["mask"]
    chex.assert_rank([logits, label, mask], [2, {1, 2}, 1])
    chex.assert_equal_shape_prefix([logits, label, mask], 1)
    loss = config.clip_weight * cross_entropy(logits, label, config.label_smoothing)  # [b]
    terms = (
        (config.frame_weight, _frames),
        (config.region_weight, _regions),
        (config.lone_weight, _lone_objects),
        (config.attention_weight, _attention),
        (config.map_weight, _object_map),
    )
    for weight, term in terms:
        if weight > 0:
            loss = loss + weight * term(config, out, batch)
    # `where` and not a product: padding may hold anything, and 0 * inf is not 0.
    total = jnp.where(mask > 0, loss * mask, 0).sum()
    if config.reduction == "sum":
        return total, total
    return total / jnp.maximum(mask.sum(), 1), total


# Terms of the objective for each clip, [b].


def _frames(config: LossConfig, out: Output, batch: Batch) -> jax.Array:
    """Cross-entropy of the frames by themselves, with the clip's label or their own."""
    frames = out["frame_logits"]  # [b t classes]
    chex.assert_rank(frames, 3)
    frames, label = frames[:, config.frame_start :], batch["label"]
    if config.needs_frame_labels:
        labels = batch["frame_label"][:, config.frame_start :]
    else:
        labels = jnp.broadcast_to(label[:, None], (*frames.shape[:2], *label.shape[1:]))
    return cross_entropy(frames, labels, config.label_smoothing).mean(1)


def _regions(config: LossConfig, out: Output, batch: Batch) -> jax.Array:
    del config
    classes = out["regions"].shape[-1] // REGION_OUTPUTS
    objects = (batch["object_class"], batch["object_center"])
    target = region_loss.targets(out["boxes"], *objects, classes)
    loss = region_loss.loss(out["regions"], target)
    if "early_regions" in out:
        loss += region_loss.loss(out["early_regions"], target)
    return loss


def _lone_objects(config: LossConfig, out: Output, batch: Batch) -> jax.Array:
    del config
    objects = (batch["object_center"], batch["object_in_pair"])
    lone, target = lone_object_loss.targets(out["boxes"], *objects)
    loss = lone_object_loss.loss(out["lone_objects"], lone, target)
    if "early_motion" in out:
        loss += lone_object_loss.motion_loss(out["early_motion"], lone, target)
    return loss


def _attention(config: LossConfig, out: Output, batch: Batch) -> jax.Array:
    attention, in_pair = out["attention"], batch["object_in_pair"]  # [k b t i j], [b o]
    if "objects" in out:
        _, _, frames, nodes, _ = attention.shape
        partner = attention_loss.object_partners(nodes, batch["object_class"], in_pair, frames)
    else:
        partner = attention_loss.partners(out["boxes"], batch["object_center"], in_pair)
    start = config.attention_start
    return attention_loss.loss(attention[:, :, start:], partner[:, start:])


def _object_map(config: LossConfig, out: Output, batch: Batch) -> jax.Array:
    del config
    predicted = out["object_map"]  # [b t h w classes 3]
    objects = (batch["object_class"], batch["object_center"])
    target = map_loss.targets(predicted.shape[2:4], *objects, predicted.shape[4])
    chex.assert_equal_shape([predicted, target])
    return map_loss.loss(predicted, target)
