"""The pure, jitted steps of training, which take a `TrainState` and give the next, and of testing.

The training step donates the state.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from rstg_jax.data import DataConfig
from rstg_jax.models import classifier
from rstg_jax.models.config import ViewAverage
from rstg_jax.training import losses, metrics, not_finite, optim, sharding, signals
from rstg_jax.training.train_state import TrainSetup, TrainState, shardings_of

Batch = Mapping[str, jax.Array]
Sums = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Sums]]
GatherParams = Callable[[Any], Any]
# Arrays of a batch that the network reads, and that evaluation reads, where they are in it.
NETWORK_KEYS = ("video", "boxes")
EVAL_KEYS = (*NETWORK_KEYS, "label", "mask", "index")


def inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the network in a batch, by name: ``module.apply(variables, **inputs)``."""
    return {key: batch[key] for key in NETWORK_KEYS if key in batch}


def abstract_inputs(
    data: DataConfig, clip_shape: tuple[int, ...], size: int = 1
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the arguments of the network, as `inputs` has them.

    Args:
      data: of the clips; says whether boxes come with them.
      clip_shape: `(t, h, w, c)` of one clip.
      size: number of clips.
    """
    shapes = {"video": jax.ShapeDtypeStruct((size, *clip_shape), np.uint8)}
    if boxes := data.num_boxes:
        shapes["boxes"] = jax.ShapeDtypeStruct((size, clip_shape[0], boxes, 4), np.float32)
    return shapes


def as_they_are(weights: Any) -> Any:
    """Returns weights that need no gathering."""
    return weights


def loss_fn(
    params: Any, setup: TrainSetup, state: TrainState, batch: Batch, gather: GatherParams
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Any]]:
    """The loss, to be differentiated by its first argument; the others as in `train_step`.

    Returns:
      The objective; its sum over the batch, the logits and the new running statistics.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    if setup.frozen:
        still = optim.frozen(setup.frozen, params)
        params = jax.tree.map(lambda p, s: jax.lax.stop_gradient(p) if s else p, params, still)
    variables = {"params": gather(params)}
    if state.batch_stats:
        variables["batch_stats"] = state.batch_stats
    (logits, out), updated = setup.module.apply(
        variables, **inputs(batch), train=True, rngs={"dropout": key}, mutable=["batch_stats"]
    )
    loss, total = losses.objective(setup.loss, logits, out, batch)
    return loss, (total, logits, updated.get("batch_stats", {}))


def gradients_of(
    setup: TrainSetup, state: TrainState, batch: Batch, gather: GatherParams
) -> tuple[Any, Sums, Any]:
    """Gradients, sums of metrics and new running statistics of a batch; arguments of `loss_fn`."""
    grad_fn = jax.grad(loss_fn, has_aux=True)
    grads, (total, logits, batch_stats) = grad_fn(state.params, setup, state, batch, gather)
    sums = metrics.batch_sums(logits, batch["label"], batch["mask"]) | {"objective": total}
    return grads, sums, batch_stats


def accumulated_gradients(
    setup: TrainSetup, state: TrainState, batch: Batch, gather: GatherParams
) -> tuple[Any, Sums, Any]:
    """The same from `setup.accumulate` parts of the batch, one after the other.

    Part i has the rows i, i + n, ..., so that every device computes parts of its own rows.
    """
    n = setup.accumulate
    real = jnp.maximum(batch["mask"].sum(), 1)

    def part(before: tuple[Any, Any], x: tuple[jax.Array, Batch]) -> tuple[Any, Sums]:
        total, batch_stats = before
        number, rows = x
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), number)
        here = state.replace(key=jax.random.key_data(key), batch_stats=batch_stats)
        grads, sums, batch_stats = gradients_of(setup, here, rows, gather)
        # The objective of the part is a mean over its real examples, that of the batch over all.
        weight = rows["mask"].sum() / real if setup.loss.reduction == "mean" else 1.0
        total = jax.tree.map(lambda t, g: t + weight * g, total, grads)
        return (total, batch_stats), sums

    parts = jax.tree.map(lambda a: a.reshape(len(a) // n, n, *a.shape[1:]).swapaxes(0, 1), batch)
    zero = jax.tree.map(jnp.zeros_like, state.params)
    before = (zero, state.batch_stats)
    (grads, batch_stats), sums = jax.lax.scan(part, before, (jnp.arange(n), parts))
    return grads, jax.tree.map(lambda s: s.sum(0, dtype=s.dtype), sums), batch_stats


def train_step(
    setup: TrainSetup, state: TrainState, batch: Batch, gather: GatherParams = as_they_are
) -> tuple[TrainState, Sums]:
    """One update.

    Args:
      setup: see `TrainSetup`.
      state: before the update.
      batch: video [b t h w c] and the arrays that `losses.objective` reads; of several processes
        also their wish to stop, `signals.CARRIED` [b], of which the sums then have the sum.
      gather: applied to the weights where they are used, see `sharding.gather_weights`.

    Returns:
      The state after the update, and the batch's `metrics.batch_sums` plus ``objective`` (a sum)
      and the norms ``grad_norm`` and ``param_norm`` (after the update; NaN if the running
      statistics are not finite), all of which are finite if and only if the update was sound. Of
      one that was not, `setup.skip_not_finite` keeps nothing but its sums and the step's number.
    """
    chex.assert_rank([batch["video"], batch["label"], batch["mask"]], [5, {1, 2}, 1])
    gradients = gradients_of if setup.accumulate == 1 else accumulated_gradients
    grads, sums, batch_stats = gradients(setup, state, batch, gather)
    updates, opt_state = setup.tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, state.params)
    step = state.step + 1
    ema_params = state.ema_params
    if setup.ema_decay is not None:
        ema_params = optim.moving_average(setup.ema_decay, step, ema_params, params, setup.frozen)
    param_norm = optax.tree.norm(params)
    if batch_stats:
        sound = jnp.isfinite(optax.tree.norm(batch_stats))
        param_norm = jnp.where(sound, param_norm, jnp.nan)
    sums |= {"grad_norm": optax.tree.norm(grads), "param_norm": param_norm}
    if signals.CARRIED in batch:
        sums[signals.CARRIED] = batch[signals.CARRIED].sum()
    new = state.replace(
        step=step,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema_params=ema_params,
    )
    if setup.skip_not_finite:
        sound = jnp.isfinite(jnp.stack([sums[name] for name in not_finite.QUANTITIES])).all()
        old = state.replace(step=step)
        new = jax.tree.map(lambda after, before: jnp.where(sound, after, before), new, old)
    return new, sums


def classify(
    module: nn.Module,
    variables: Mapping[str, Any],
    clips: Mapping[str, Any],
    average: ViewAverage,
    max_clips: int = 1,
    places: np.ndarray | None = None,
) -> jax.Array:
    """Logits of videos, float32 `[b classes]`, see `classifier.over_views`.

    Args:
      module: the network.
      variables: of the network.
      clips: arguments of the network, see `inputs`, with one more axis where there are several
        views: video `[b t h w c]` or `[b v t h w c]`.
      average: see `ModelConfig.view_average`.
      max_clips: largest number of clips (videos times views) to compute at once where possible;
        bounds the memory and changes no result beyond rounding.
      places: see `DataConfig.logit_places`.
    """

    def logits(clips: Mapping[str, Any]) -> jax.Array:
        return module.apply(variables, **clips, train=False)[0]

    if clips["video"].ndim == 5:
        return logits(clips)
    b, v = clips["video"].shape[:2]
    at_once = max(n for n in range(1, v + 1) if v % n == 0 and (n == 1 or b * n <= max_clips))

    def of_views(clips: Mapping[str, Any]) -> jax.Array:
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), clips)
        return logits(flat).reshape(b, at_once, -1)

    def grouped(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(b, v // at_once, at_once, *x.shape[2:]), 1, 0)

    if at_once == v:
        each = of_views(clips)
    else:
        each = jax.lax.map(of_views, jax.tree.map(grouped, clips))  # [groups b at_once classes]
        each = jnp.moveaxis(each, 0, 1).reshape(b, v, -1)
    return classifier.over_views(each, average, places)


def ranking(
    logits: jax.Array, top: int = metrics.TOP_K, kind: losses.Kind = "softmax"
) -> dict[str, jax.Array]:
    """The most likely classes, best first.

    Args:
      logits: `[b classes]`.
      top: number of classes; all if there are fewer.
      kind: of the loss with which the model was trained.

    Returns:
      ``label`` int32 and ``probability`` float32, `[b k]`.
    """
    each = losses.probabilities(logits, kind)
    probability, label = jax.lax.top_k(each, min(top, logits.shape[1]))
    return {"label": label, "probability": probability}


def eval_step(
    module: nn.Module,
    average: ViewAverage,
    max_clips: int,
    kind: losses.Kind,
    variables: Mapping[str, Any],
    batch: Batch,
    gather: GatherParams = as_they_are,
    places: np.ndarray | None = None,
) -> tuple[Sums, dict[str, jax.Array]]:
    """Evaluates one batch; arguments are those of `classify` and `ranking`.

    Returns:
      The sums of the batch with ``confusion`` int32 `[classes classes]`, meaningless if labels are
      unknown, or with `metrics.ROWS` where examples have sets of labels; and the `ranking` of each
      row with its ``index`` in the source, int32 `[b]`, -1 for padding.
    """
    logits = classify(module, gather(variables), inputs(batch), average, max_clips, places)
    label, mask = batch["label"], batch["mask"]
    sums = metrics.batch_sums(logits, label, mask)
    if label.ndim == 1:
        sums["confusion"] = metrics.confusion(logits, label, mask)
    else:
        sums |= {"logits": logits, "truth": label, "mask": mask}
    return sums, ranking(logits, kind=kind) | {"index": jnp.where(mask > 0, batch["index"], -1)}


def jit_train_step(setup: TrainSetup, mesh: Mesh, abstract: Any) -> TrainStep:
    """`train_step` compiled for the mesh; the state is donated, the sums are replicated."""
    state = shardings_of(abstract)
    return jax.jit(
        functools.partial(
            train_step, setup, gather=functools.partial(sharding.gather_weights, mesh=mesh)
        ),
        in_shardings=(state, sharding.batch_sharding(mesh)),
        out_shardings=(state, sharding.replicated(mesh)),
        donate_argnums=0,
    )


def jit_eval_step(
    module: nn.Module,
    mesh: Mesh,
    abstract: Any,
    average: ViewAverage,
    max_clips: int = 1,
    kind: losses.Kind = "softmax",
    places: np.ndarray | None = None,
) -> Callable[[Mapping[str, Any], Batch], tuple[Sums, dict[str, jax.Array]]]:
    """`eval_step` compiled for the mesh, for such variables."""
    return jax.jit(
        functools.partial(
            eval_step,
            module,
            average,
            max_clips,
            kind,
            gather=functools.partial(sharding.gather_weights, mesh=mesh),
            places=places,
        ),
        in_shardings=(shardings_of(abstract), sharding.batch_sharding(mesh)),
        out_shardings=sharding.replicated(mesh),
    )
