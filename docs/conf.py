"""Settings of the documentation, which `make docs` builds with every notebook executed."""

import os
from html import escape

from docutils import nodes
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath

import neuroshare

project = "neuroshare"
copyright = "the neuroshare developers"
version = release = neuroshare.__version__

# Figures appear in the pages whatever backend the shell asks for.
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
]
# Links into the documentation of others, where the build may use the network.
if os.environ.get("NEUROSHARE_DOCS_ONLINE"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "xarray": ("https://docs.xarray.dev/en/stable", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
        "matplotlib": ("https://matplotlib.org/stable", None),
    }
exclude_patterns = ["_build", "conf.py", "**/*.ipynb"]
templates_path = ["_templates"]
default_role = "py:obj"
smartquotes = False  # messages and options are shown as they are

html_theme = "furo"
html_title = f"neuroshare {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["copy.js"]
html_math_renderer = "svg"

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc has them in words
numpydoc_show_class_members = False
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

# The tutorials are the notebooks, kept as text.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "force"
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_output_stderr = "warn"  # a tutorial that warns is not finished


def _svg(latex):
    """Draw a formula in the colour of the text: a reader needs no script, network or math font."""
    latex = " ".join(latex.split())
    path = TextPath((0, 0), f"${latex}$", size=112, prop=FontProperties(math_fontfamily="cm"))
    box = path.get_extents()
    letters = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}
    drawn = ""
    for points, code in path.iter_segments(simplify=False):
        # y points up in matplotlib and down in SVG.
        where = points.reshape(-1, 2) * (1, -1)
        drawn += (
            letters[code] + " ".join(f"{v:.0f}" for v in where.flat) if code in letters else "Z"
        )
    return (
        f'<svg class="formula" role="img" aria-label="{escape(latex)}" '
        f'viewBox="{box.x0 - 2:.0f} {-box.y1 - 2:.0f} {box.width + 4:.0f} {box.height + 4:.0f}" '
        f'style="width: {(box.width + 4) / 100:.2f}em; height: {(box.height + 4) / 100:.2f}em; '
        f'vertical-align: {(box.y0 - 2) / 100:.2f}em"><path d="{drawn}"/></svg>'
    )


def _inline_math(translator, node):
    translator.body.append(_svg(node.astext()))
    raise nodes.SkipNode


def _block_math(translator, node):
    translator.body.append(f'<div class="math">{_svg(node.astext())}</div>')
    raise nodes.SkipNode


def setup(app):
    """Draw mathematics at build time."""
    app.add_html_math_renderer("svg", (_inline_math, None), (_block_math, None))
