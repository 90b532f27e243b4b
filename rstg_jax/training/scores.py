"""How the metrics of a test are named and shown; imports no JAX, for commands that need none."""

from collections.abc import Container, Mapping


def headline(names: Container[str]) -> str:
    """Name of the metric by which checkpoints are compared, of those that a test has."""
    return "mAP" if "mAP" in names else "top1"


def accuracies(values: Mapping[str, float]) -> dict[str, str]:
    """The metrics of a test that are shares, by name, such as "12.34%"."""
    names = ("mAP", "top1", "top5")
    return {name: f"{values[name]:.2%}" for name in names if name in values}
