"""What would the network say if a part of its graph did not work? Interventions at inference.

An intervention is an interceptor for `flax.linen.intercept_methods`, so the model itself stays as
it is:

    with nn.intercept_methods(silence(4, frame=7)):
        logits, _ = module.apply(variables, video)

Regions are numbers of nodes, as in `rstg_jax.rstg.region_graph.RegionGraph`; they may be traced
arrays, so that `jax.vmap` tries all regions at once. A region or frame that is not there is an
error when the model is called, unless it is traced. `cut` in one frame and `forget` need the
schedule "stage": in a wavefront a stage does not see the frames of a clip in their order.

A function that has been jitted and called before runs as it was compiled, without the intervention:
make the jitted function within the `with`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.module import InterceptorContext

from rstg_jax.errors import UserError
from rstg_jax.rstg.block import RSTG
from rstg_jax.rstg.stages import SpaceStage, TimeStage

Interceptor = Callable[
    [Callable[..., Any], Sequence[Any], Mapping[str, Any], InterceptorContext], Any
]


def _on(
    kind: type[nn.Module], method: str, change: Callable[[Any, nn.Module, Sequence[Any]], Any]
) -> Interceptor:
    """Changes what a method of a kind of module returns, given its result, module and arguments."""

    def intercept(
        call: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        context: InterceptorContext,
    ) -> Any:
        out = call(*args, **kwargs)
        if not isinstance(context.module, kind) or context.method_name != method:
            return out
        return change(out, context.module, args)

    return intercept


def _check_schedule(stage: nn.Module) -> None:
    assert isinstance(stage, SpaceStage | TimeStage)
    if stage.config.schedule != "stage":
        raise UserError(
            f"this intervention needs model.rstg.schedule=stage, not {stage.config.schedule}"
        )


def _check_number(what: str, number: int | jax.Array | None, count: int) -> None:
    """Raises `UserError` for a region or frame that is not there, if its number is known."""
    if number is None or isinstance(number, jax.core.Tracer):
        return
    if not 0 <= int(number) < count:
        raise UserError(f"there is no {what} {number}: give one of 0 to {count - 1}")


def silence(region: int | jax.Array, frame: int | jax.Array | None = None) -> Interceptor:
    """The region sees nothing: its features are 0 when they enter the graph.

    Args:
      region: number of the node.
      frame: in this frame only; None for all frames.
    """

    def without(nodes: jax.Array, *_: Any) -> jax.Array:
        _check_number("region", region, nodes.shape[0])
        _check_number("frame", frame, nodes.shape[1])
        chosen = jnp.arange(nodes.shape[0])[:, None] == region  # [n 1]
        if frame is not None:
            chosen &= jnp.arange(nodes.shape[1]) == frame  # [n t]
        return jnp.where(chosen[..., None, None], 0, nodes)

    return _on(RSTG, "_encode", without)


def cut(
    receiver: int | jax.Array | None,
    sender: int | jax.Array,
    frame: int | jax.Array | None = None,
) -> Interceptor:
    """The receiver gets no message of the sender in any space stage; others weigh as before.

    Args:
      receiver: number of a node; None for all of them.
      sender: number of a node.
      frame: in this frame only; None for all frames.
    """

    def without(attention: jax.Array, stage: nn.Module, _: Any) -> jax.Array:
        n, m, t = attention.shape[:3]  # [i j t b h]
        for region in (receiver, sender):
            _check_number("region", region, n)
        edge = jnp.broadcast_to(jnp.arange(m) == sender, (n, m))
        if receiver is not None:
            edge &= jnp.arange(n)[:, None] == receiver
        edge = edge[:, :, None]
        if frame is not None:
            _check_schedule(stage)
            _check_number("frame", frame, t)
            edge &= jnp.arange(t) == frame  # [i j t]
        return jnp.where(edge[..., None, None], 0, attention)

    return _on(SpaceStage, "_attend", without)


def forget(region: int | jax.Array, frame: int | None = None) -> Interceptor:
    """The region has no memory in its time stages.

    Args:
      region: number of the node.
      frame: its memory is empty when this frame comes, and lasts from there on, a plain number;
        None: it is empty before every frame.

    Raises:
      UserError: the frame is a traced array.
    """
    if isinstance(frame, jax.core.Tracer):
        raise UserError("forget: frame must be a plain number, as it decides which frames are run")
    busy = False  # with a time stage of our own, of which the interceptor is told as well

    def without(out: tuple[jax.Array, Any], stage: nn.Module, args: Sequence[Any]) -> Any:
        nonlocal busy
        if busy:
            return out
        assert isinstance(stage, TimeStage)
        _check_schedule(stage)
        nodes, (remembered, carry) = args[0], out
        n, t, b, d = nodes.shape
        _check_number("region", region, n)
        _check_number("frame", frame, t)
        late = nodes.reshape(n, 1, t * b, d) if frame is None else nodes[:, frame:]
        busy = True
        fresh, _ = TimeStage(stage.config, parent=None).apply(stage.variables, late, None)
        busy = False
        if frame is None:
            fresh = fresh.reshape(n, t, b, d)
        else:
            fresh = jnp.concatenate([remembered[:, :frame], fresh], axis=1)
        chosen = jnp.arange(n) == region
        return jnp.where(chosen[:, None, None, None], fresh, remembered), carry

    return _on(TimeStage, "__call__", without)
