"""Docstrings as the reference shows them: public names only, each under the module that users import it from."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from importlib.util import find_spec
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import plica

# The modules that users import from. What one of them offers is its __all__, or what is defined in it.
PUBLIC = (
    "plica",
    "plica.compare",
    "plica.demo",
    "plica.patterns",
    "plica.plot",
    "plica.report",
    "plica.runs",
    "plica.track",
    "plica.trust",
)
# Types that public functions take or give, with the module that the reference shows them under.
SHOWN = {
    "plica.data": ("Source",),
    "plica.evaluation": ("Plan",),
    "plica.metrics": ("BaseMetric", "Combinable", "LpForm", "MetricProperties"),
    "plica.perturbations": ("ParametricPerturbation",),
    "plica.solver": ("Solution", "Stop"),
}
logger = logging.getLogger(__name__)

# plica.compare and its like are attributes of plica that are loaded when they are asked for; the reference shows them
# under the name that users write.
for lazy in PUBLIC[1:]:
    if find_spec(lazy) is None:
        sys.modules[lazy] = getattr(plica, lazy.removeprefix("plica."))
        sys.modules[lazy].__name__ = lazy


def public_names(module: str) -> list[str]:
    """The names that a public module offers."""
    held = importlib.import_module(module)
    if hasattr(held, "__all__"):
        return list(held.__all__)
    here = (module, held.__spec__.name if held.__spec__ else module)
    own = (name for name, value in vars(held).items() if getattr(value, "__module__", None) in here)
    return [name for name in own if not name.startswith("_")]


def escape(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: |delta| and *image mean themselves, wherever they do not stand between backticks."""
    for number, line in enumerate(lines):
        code = re.split(r"(`[^`]*`)", line)
        code[::2] = [re.sub(r"([*|])", r"\\\1", text) for text in code[::2]]
        lines[number] = "".join(code)
    if what in ("attribute", "property") and lines:
        lines[0] = lines[0].replace(": ", " — ")  # what stands before a colon there, napoleon takes for a type


def hide_factories(app: Sphinx, what: str, name: str, value: Any, options: Any, signature: str, returns: str) -> Any:
    """A field of a record that is made anew each time shows as one with a default."""
    return (signature.replace("<factory>", "..."), returns) if signature else None


def draw_dashes(app: Sphinx, document: nodes.document) -> None:
    """Between a parameter and what is said of it stands a dash."""
    for text in list(document.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" \u2013 "))


def name_publicly(app: Sphinx) -> None:
    """A class or function is shown and linked to under the module that users import it from."""
    for module, names in SHOWN.items() | {(module, tuple(public_names(module))) for module in PUBLIC}:
        held = importlib.import_module(module)
        for name in names:
            value = getattr(held, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                value.__module__ = module


def check_complete(app: Sphinx, env: BuildEnvironment) -> None:
    """A public name without an entry in the reference is a warning, and so fails the build."""
    written = env.get_domain("py").objects  # type: ignore[attr-defined]
    for module in PUBLIC:
        for name in public_names(module):
            if f"{module}.{name}" not in written:
                logger.warning("%s.%s is public and has no entry in docs/reference.", module, name)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", name_publicly)
    app.connect("autodoc-process-docstring", escape, priority=100)  # before napoleon reads the sections
    app.connect("autodoc-process-signature", hide_factories)
    app.connect("doctree-read", draw_dashes)
    app.connect("env-check-consistency", check_complete)
    return {"parallel_read_safe": True}
