"""How the documentation is built: `make docs` writes docs/_build/index.html."""

import sys
from pathlib import Path

import hydragrad

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))
sys.path.insert(0, str(Path(__file__).parent.parent))  # the studies are no part of the installed package

project = "hydragrad"
author = "The hydragrad developers"
project_copyright = author
version = release = hydragrad.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_parser",
    "sphinx_copybutton",
    "docstrings",  # ours: docstrings as reStructuredText
    "commands",  # ours: the command line's reference, from the commands themselves
    "formulas",  # ours: formulas as MathML, so that the pages need no network
]
exclude_patterns = ["_build"]
nitpicky = True
default_role = "code"
smartquotes = False  # options begin with two hyphens

# What stands in signatures and is documented elsewhere. There is no network while building, so no inventory of theirs.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|pd|pandas|np|numpy|nn|collections|concurrent|contextlib|pathlib|typing|types)\..*"),
    ("py:class", r"(Path|Tensor|Module|Dataset|DataLoader|Optimizer|NDArray|Self|Any|TracebackType|optional|Array)"),
    # Of no use to a reader:
    ("py:class", r"hydragrad\.(runs\.log\.Structure|trust\.error\.PairAt)"),
    ("py:class", r"hydragrad\.tracking\.query_gradients\.QueryDifferentiator"),
    ("py:class", r"hydragrad\.recording\.sampler_position\.(Epoch|HasSamplerPosition)"),
    ("py:class", r"hydragrad\.steps\.rule\.\w+"),  # the functions that a step rule consists of
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "hydragrad"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"
pygments_style = "friendly"
pygments_dark_style = "github-dark"
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
