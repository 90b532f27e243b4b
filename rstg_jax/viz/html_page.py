"""How the templates of HTML pages are filled."""

import jinja2


def environment() -> jinja2.Environment:
    """Finds the templates; escapes what is put into them, and refuses names that are unknown."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("rstg_jax.viz"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
