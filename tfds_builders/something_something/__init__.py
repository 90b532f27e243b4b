"""Something-Something for TFDS; importing this package registers `something_something/v2`."""

from tfds_builders.something_something.something_something import (
    SomethingSomething,
    SomethingSomethingBuilderConfig,
)

__all__ = ["SomethingSomething", "SomethingSomethingBuilderConfig"]
