"""What the command lines share."""

import platform
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from rstg_jax import cli


@pytest.fixture
def cache():
    """Keeps programs that compile quickly, too; the settings of the suite are back afterwards."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[1], 0.0)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_compiled_programs_are_kept(cache, monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cli.keep_compiled_programs()
    kept = Path(jax.config.jax_compilation_cache_dir)
    assert kept == tmp_path / "rstg_jax" / "compiled" / platform.node()
    compilation_cache.reset_cache()
    jax.block_until_ready(jax.jit(lambda x: x @ x.T + 12345)(jnp.ones((8, 8))))
    assert list(kept.iterdir())


@pytest.mark.parametrize("directory", ["", "elsewhere"])
def test_the_environment_decides(cache, monkeypatch, directory):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", directory)
    before = jax.config.jax_compilation_cache_dir
    cli.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == before
