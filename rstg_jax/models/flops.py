"""The cost of a jaxpr: multiply-accumulates of its products, bytes that a gradient keeps.

Both are counted by place: the name stack of an equation, in which every Linen module leaves its
name. Nothing is compiled or run.
"""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

# Operations whose result needs no memory beside their operand's.
VIEWS = ("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose")


class Product(NamedTuple):
    """A matrix product or convolution of a program.

    Attributes:
      place: name stack of its equation.
      macs: multiply-accumulates of one time.
      bytes: of its operands and its result.
      times: how often it runs.
    """

    place: str
    macs: int
    bytes: int
    times: int


def products(jaxpr: Jaxpr, place: str = "", times: int = 1) -> Iterator[Product]:
    """Yields all products and convolutions, nothing elementwise.

    A scan runs its body as often as it is long, a conditional its most expensive branch; taps of a
    convolution that fall on padding count like the others, those on zeros between pixels do not.

    Args:
      jaxpr: the program.
      place: what to put before each name stack.
      times: how often it runs.

    Raises:
      ValueError: products inside a loop of unknown length.
    """
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        here = place + str(equation.source_info.name_stack)
        if own := _product(equation):
            arrays: list[Any] = [v.aval for v in (*equation.invars, *equation.outvars)]
            moved = sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays)
            yield Product(here, own, moved, times)
        repeats = equation.params["length"] if name == "scan" else 1
        inside = [list(products(inner, f"{here}/", times * repeats)) for inner in _inner(equation)]
        if name == "cond":
            inside = [max(inside, key=lambda branch: sum(p.macs * p.times for p in branch))]
        if name == "while" and any(inside):
            raise ValueError(f"cannot count a loop of unknown length in {here}")
        for branch in inside:
            yield from branch


def macs(jaxpr: Jaxpr) -> Counter[str]:
    """Multiply-accumulates of all `products` by name stack, in the order of the jaxpr."""
    total: Counter[str] = Counter()
    for product in products(jaxpr):
        total[product.place] += product.macs * product.times
    return total


def _product(equation: Any) -> int:
    """Multiply-accumulates of one equation by itself."""
    name, params = equation.primitive.name, equation.params
    zeros_between = 1
    if name == "dot_general":
        contracted = params["dimension_numbers"][0][0]
        shape = equation.invars[0].aval.shape
        factor = math.prod(shape[axis] for axis in contracted)
    elif name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        factor = math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
        zeros_between = math.prod(params["lhs_dilation"])  # the gradient of a stride has them
    else:
        return 0
    return factor * math.prod(equation.outvars[0].aval.shape) // zeros_between


def _inner(equation: Any) -> Iterator[Jaxpr]:
    """The jaxprs that an equation calls, whatever it calls them."""
    kinds = (Jaxpr, ClosedJaxpr)
    for leaf in jax.tree.leaves(
        list(equation.params.values()), is_leaf=lambda x: isinstance(x, kinds)
    ):
        if isinstance(leaf, kinds):
            yield leaf.jaxpr if isinstance(leaf, ClosedJaxpr) else leaf


def result_bytes(jaxpr: Jaxpr) -> Counter[str]:
    """Counts the bytes of a jaxpr's results that it made itself, each array once.

    Results that are arguments or constants, or views of them, cost nothing more.

    Returns:
      Name stack of the equation that made them -> bytes.
    """
    makers = {out: equation for equation in jaxpr.eqns for out in equation.outvars}
    seen: set[Any] = set()
    total: Counter[str] = Counter()
    result: Any
    for result in jaxpr.outvars:
        while not isinstance(result, Literal) and result in makers:
            if makers[result].primitive.name not in VIEWS:
                break
            result = makers[result].invars[0]
        if isinstance(result, Literal) or result not in makers or result in seen:
            continue
        seen.add(result)
        size = math.prod(result.aval.shape) * result.aval.dtype.itemsize
        total[str(makers[result].source_info.name_stack)] += size
    return total
