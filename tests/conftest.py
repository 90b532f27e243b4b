"""Settings of the whole suite, made before JAX and rstg_jax are imported.

There are eight virtual CPU devices, and the shape annotations of the method and its layers are
checked at every call.
"""

import atexit
import gc
import os
import pathlib
import shutil
import tempfile
import time
from importlib.metadata import version

import pytest
from jaxtyping import install_import_hook

# Most of the suite's time is compilation: without LLVM's optimisations that takes a third less, and
# with XLA's plain emitters of loops, on one thread, half of the rest.
_flags = " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
# XLA ends a process that sets a flag it lacks: with other releases these are left out.
if version("jaxlib").startswith("0.10."):
    _flags += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    _flags += " --xla_cpu_enable_concurrency_optimized_scheduler=false"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + _flags
# Size of XLA's thread pool. Many steps queued on many virtual devices deadlock a smaller one.
os.environ["NPROC"] = "16"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Many tests compile the same step; those that start processes share it with them, and so do the
# workers of pytest-xdist, who find the cache of the process that started them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.mkdtemp(prefix="rstg_jax_compilation_cache_")
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Not in the configuration of the block, which checks its fields itself, with messages for users.
_method = pathlib.Path(__file__).parents[1].glob("rstg_jax/rstg/*.py")
_checked = [f"rstg_jax.rstg.{path.stem}" for path in _method if path.stem != "config"]
install_import_hook([*_checked, "rstg_jax.layers"], "beartype.beartype")

START = time.monotonic()


def pytest_addoption(parser):
    parser.addoption(
        "--minutes",
        type=float,
        metavar="N",
        help="skip, and list as skipped, the tests that would begin more than N minutes from now",
    )


def pytest_collection_finish():
    """Takes the modules of all tests out of what each collection of garbage goes through."""
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    minutes = item.config.getoption("--minutes")
    if minutes is not None and time.monotonic() - START > 60 * minutes:
        pytest.skip(f"the {minutes:g} minutes for tests are over")


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A finished run of 20 steps of the stand-in model, which stays in place of the real one."""
    from rstg_jax.training import train_loop
    from tests import standins

    standins.install(monkeypatch)
    train_loop.train(standins.experiment(total_steps=20), tmp_path)
    return tmp_path
