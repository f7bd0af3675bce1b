"""Settings of the documentation, which `make docs` builds with every notebook executed."""

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

import neuroshare

project = "neuroshare"
copyright = "the neuroshare developers"
version = release = neuroshare.__version__

extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
exclude_patterns = ["_build", "conf.py", "**.ipynb_checkpoints"]
default_role = "py:obj"

html_theme = "furo"
html_title = f"neuroshare {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc has them in words
numpydoc_show_class_members = False
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

# The tutorials are the notebooks, kept as text.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_output_stderr = "warn"  # a tutorial that warns is not finished


def _inline_math(translator, node):
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _block_math(translator, node):
    translator.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app):
    """Render mathematics as MathML, which browsers show without a script or a network."""
    app.add_html_math_renderer("mathml", (_inline_math, None), (_block_math, None))
