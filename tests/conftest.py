"""Eight virtual CPU devices for the whole suite; must be said before JAX is imported."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# Size of XLA's thread pool. Many steps queued on many virtual devices deadlock a smaller one.
os.environ["NPROC"] = "16"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
