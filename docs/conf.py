"""The documentation site: `make docs` builds it into build/site, offline, and any warning fails the build.

Sphinx with the theme furo, Markdown by MyST, notebooks kept as text and executed by MyST-NB. docs/design/site.md says
why these.
"""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "plica"
author = "plica contributors"
copyright = "plica contributors"
release = version = installed("plica")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "docstrings",
    "generated",
]
exclude_patterns = ["_ext"]

# Markdown: every heading can be linked to as page.md#heading, and a link to none is a warning.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

smartquotes = False  # -- begins an option

# Notebooks run at each build, since their outputs depend on the code of plica, which no cache of theirs looks at.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_in_temp = True  # the files that they write do not lie between the pages
nb_execution_timeout = 120
nb_merge_streams = True

# Docstrings are plain text in Google's form (Args, Returns, Raises), `code` in single backticks.
default_role = "literal"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the signature of a record has them
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
maximum_signature_line_length = 88
python_display_short_literal_types = True

# Every type in a signature has to resolve to a page here, unless it belongs to another package: what those pages are
# called could only be asked over the network.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(torch|jaxtyping|numpy|np|pandas|pd|pyarrow|pa|matplotlib|collections|contextlib|pathlib|typing)\..*"),
    ("py:.*", r"(Tensor|Module|ndarray)"),
    ("py:.*", r"plica\.(report|trust)\.\w+\.(Ascent|Pick|TaskStats)"),  # what plica's own checks and sections use
    ("py:.*", "Metric"),  # any callable (x, x_adv) -> (b,)
    ("py:.*", r"plica\.core\.model\.batching\.Arithmetic"),  # what CountedModel keeps for itself
    ("py:.*", r"plica\.certify\.certificate\.Evidence"),  # what a run stores of a proof
    ("py:.*", r"plica\.evaluation\.\w+\.(Chain|Event|Preflight)"),  # what the progress display of the command is told
]

html_theme = "furo"
html_title = f"plica {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
copybutton_exclude = ".linenos, .gp, .go"
