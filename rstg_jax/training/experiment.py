"""The configuration of an experiment; each section's class lies beside the code it configures."""

import dataclasses
import fractions
import math

from rstg_jax import config
from rstg_jax.data import ENDLESS, DataConfig, SyncMNISTConfig
from rstg_jax.errors import UserError
from rstg_jax.models.config import ModelConfig
from rstg_jax.training import not_finite, patterns
from rstg_jax.training.losses import AUXILIARY, LossConfig
from rstg_jax.training.optim import OptimizerConfig
from rstg_jax.training.sharding import MeshConfig

_TOTALS = ("total_steps", "total_epochs", "total_examples")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long, how often, with which seed. Exactly one of the three totals is set.

    Attributes:
      total_steps: length of training in updates.
      total_epochs: length in passes over the training split, which must be finite.
      total_examples: length in examples seen.
      batch_size: GLOBAL number of videos in an update.
      accumulate: parts of a batch that are computed one after the other, to need less memory; their
        gradients are summed. The same update as that of the whole batch, except that dropout draws
        other masks and batch norm with statistics of the batch normalises each part by itself.
      eval_batch_size: GLOBAL number of clips in an evaluation batch, of all views of its videos;
        `batch_size` if None.
      log_every: updates in a logged window; its metrics are averages over the window.
      eval_every: updates between evaluations on the whole test split; 0 for the end only.
      checkpoint_every: updates between checkpoints; 0 for evaluations with a new best only. The
        end is always saved.
      keep: how many of the latest checkpoints to keep, besides the best.
      seed: of weights, dropout and the order of the data; a signed number of 32 bits.
      init_from: directory of a run (or of converted weights) whose weights to begin with, ``DIR``,
        ``DIR:best`` or ``DIR:STEP``, a .safetensors file that `rstg_jax.convert.export` wrote, or
        the name of weights in this package, such as ``sync_mnist/demo`` (a directory of this name
        is then ``./sync_mnist/demo``); see `rstg_jax.training.init_from`. Part of what must stay
        the same to resume, though the weights are not read again.
      init_fresh: patterns, found anywhere in the path of a weight, of those that start fresh all
        the same, such as ``params/rstg``.
      init_ignore: patterns of weights there that the model has not, to be left out.
      max_queued_steps: updates that may be under way at once. Hides the host's work behind the
        device's; more would only hold memory (and can deadlock virtual CPU devices).
      max_seconds: saves and stops, as on SIGTERM, when a process has trained that long; for queues.
        The same command resumes.
      on_nan: what to do if an update is not finite: "stop", "skip:N" or "rollback:N", see
        `rstg_jax.training.not_finite`.
    """

    total_steps: int | None = None
    total_epochs: float | None = None
    total_examples: int | None = None
    batch_size: int = 32
    accumulate: int = 1
    eval_batch_size: int | None = None
    log_every: int = 50
    eval_every: int = 1000
    checkpoint_every: int = 1000
    keep: int = 2
    seed: int = 0
    init_from: str = ""
    init_fresh: tuple[str, ...] = ()
    init_ignore: tuple[str, ...] = ()
    max_queued_steps: int = 2
    max_seconds: float | None = None
    on_nan: str = "stop"

    def __post_init__(self) -> None:
        totals = {name: getattr(self, name) for name in _TOTALS}
        given = [f"{name}={total}" for name, total in totals.items() if total is not None]
        if len(given) != 1:
            raise UserError(
                f"set exactly one of {', '.join(_TOTALS)}, the others to none; "
                f"{' and '.join(given) or 'none of them'} is set"
            )
        for name in ("batch_size", "accumulate", "log_every", "keep", "eval_batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"{name}={value} must be at least 1")
        for name in ("eval_every", "checkpoint_every", "max_queued_steps"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} cannot be negative")
        if self.max_seconds is not None and self.max_seconds <= 0:
            raise UserError(f"max_seconds={self.max_seconds} must be positive (or none)")
        if not 0 < next(total for total in totals.values() if total is not None) < math.inf:
            raise UserError("the length of training must be positive and finite")
        if not -(2**31) <= self.seed < 2**31:
            raise UserError(f"seed={self.seed} must lie in -2**31..2**31 - 1")
        not_finite.parse(self.on_nan)
        allowed = (*self.init_fresh, *self.init_ignore)
        if allowed and not self.init_from:
            raise UserError("init_fresh and init_ignore need init_from")
        patterns.check(allowed)

    @property
    def max_eval_clips(self) -> int:
        """Clips that an evaluation batch may have; see `eval_loop.eval_batch_size`."""
        return self.eval_batch_size or self.batch_size

    def steps(self, train_examples: int) -> int:
        """Resolves the length of training to a number of updates, rounding up.

        Args:
          train_examples: size of the training split.

        Raises:
          UserError: epochs of an endless source.
        """
        if self.total_steps is not None:
            return self.total_steps
        if self.total_examples is not None:
            return -(-self.total_examples // self.batch_size)
        assert self.total_epochs is not None
        if train_examples >= ENDLESS:
            raise UserError(
                "config key 'train.total_epochs': the training source is endless, it has no "
                "epochs; set train.total_steps or train.total_examples instead"
            )
        # As it is written: in binary, 0.07 times 100 is more than 7.
        epochs = fractions.Fraction(str(self.total_epochs))
        return max(1, math.ceil(epochs * train_examples / self.batch_size))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that determines a run; saved in each checkpoint.

    Attributes:
      name: for people.
      train: length, intervals, seed.
      model: backbone, RSTG block, head.
      data: which videos.
      loss: what is minimised.
      optim: how.
      mesh: on which devices.
    """

    name: str
    train: TrainConfig
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=SyncMNISTConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optim: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)

    @property
    def optimizer(self) -> OptimizerConfig:
        """The optimiser with the rate for this batch."""
        return self.optim.for_batch(self.train.batch_size)

    @property
    def batch_keys(self) -> tuple[str, ...]:
        """The arrays of a batch that training reads; the others are not sent to the devices."""
        return (*self.loss.batch_keys, *(("boxes",) if self.model.head.reads_boxes else ()))

    def __post_init__(self) -> None:
        config.check(self)
        if (self.loss.kind == "sigmoid") != self.data.multi_label:
            kind, count = (
                ("sigmoid", "any number of labels")
                if self.data.multi_label
                else ("softmax", "exactly one label")
            )
            raise UserError(f"set loss.kind={kind}: videos of these data have {count}")
        if self.loss.kind == "sigmoid" and self.model.view_average == "softmax":
            raise UserError("model.view_average=softmax needs loss.kind=softmax; set logits or max")
        if self.model.head.reads_boxes and not self.data.num_boxes:
            raise UserError(
                f"{type(self.model.head).__name__} reads boxes, but these data bring none: set "
                "data.boxes.per_frame and data.boxes.path, or take another head"
            )
        if self.data.num_boxes and not self.model.head.reads_boxes:
            raise UserError(
                f"data.boxes: {type(self.model.head).__name__} reads no boxes as it is; set "
                "data.boxes.per_frame=0, or take RegionGCNHead with model.head.regions=boxes"
            )
        classes = self.data.num_object_classes
        for weight in AUXILIARY:
            if getattr(self.loss, weight) and not classes:
                raise UserError(f"loss.{weight} above 0 needs data with known places of objects")
        for weight, head in (("region_weight", "region_classes"), ("map_weight", "map_classes")):
            if getattr(self.loss, weight) and getattr(self.model, head) != classes:
                raise UserError(
                    f"model.{head}={getattr(self.model, head)} must be {classes}, the number of "
                    f"object classes in the data, for a loss.{weight} above 0"
                )
        if self.loss.attention_weight and self.model.rstg.objects not in (0, classes):
            raise UserError(
                f"model.rstg.objects={self.model.rstg.objects} must be {classes}, the number of "
                "object classes in the data, for a loss.attention_weight above 0"
            )
        if self.loss.needs_frame_labels and not self.data.has_frame_labels:
            raise UserError("loss.frame_target=frame needs data that know a label for each frame")
        if self.loss.lone_weight and not self.model.lone_objects:
            raise UserError("model.lone_objects must be true for a loss.lone_weight above 0")
        if self.loss.attention_weight and not self.model.attends_to_objects:
            raise UserError(
                "a loss.attention_weight above 0 needs a model with a block that has space stages, "
                "and region_classes, lone_objects or rstg.objects"
            )
