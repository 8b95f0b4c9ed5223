"""Every form in which labelled images may be given: one line each in FORMS. The first form that matches is used; forms
that were added come before plica's own. A new one: docs/extend.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from plica.data.checks import no_file
from plica.data.factory import open_factory
from plica.data.image_folder import open_folder
from plica.data.npy import is_npy, open_npy
from plica.data.npz import open_npz
from plica.data.parquet import open_parquet
from plica.data.safetensors import SafetensorsSource
from plica.data.saved import is_saved, open_saved
from plica.data.source import Source
from plica.data.torchvision import open_torchvision
from plica.utils.registry import Registry


@dataclass(frozen=True)
class DataForm:
    """One form: what to write, whether a text is of this form, and open(text, allow_out_of_range) -> Source."""

    help: str
    matches: Callable[[str], bool]
    open: Callable[[str, bool], Source]


def help_text() -> str:
    """All forms in one line, for messages and the command line."""
    return ", ".join(form.help for form in FORMS.added_first())


def form_of(text: str) -> DataForm:
    """The form that a text is written in; what has no known form is tried as .npz."""
    return next((form for form in FORMS.added_first() if form.matches(text)), NPZ)


def _file_form(suffix: str, open_file: Callable[[str, bool], Source], help: str) -> DataForm:
    def open_existing(text: str, allow_out_of_range: bool) -> Source:
        if not Path(text).is_file():
            forms = ", ".join(FORMS)
            raise FileNotFoundError(f"{no_file(text)}; data are one of {forms}: see plica radius --help.")
        return open_file(text, allow_out_of_range)

    return DataForm(help, lambda text: text.endswith(suffix), open_existing)


def _is_factory(text: str) -> bool:
    return ":" in text and not Path(text).exists()


NPZ = _file_form(".npz", open_npz, ".npz with x (uint8, or floats in [0, 1]) and y (class numbers)")
FORMS = Registry(
    "plica.data",
    {
        "npz": NPZ,
        "safetensors": _file_form(".safetensors", SafetensorsSource, ".safetensors with the same"),
        "npy": DataForm("x.npy,y.npy or a folder with both", is_npy, open_npy),
        "parquet": _file_form(".parquet", open_parquet, ".parquet with encoded images"),
        "datasets": DataForm("a folder that datasets saved", is_saved, open_saved),
        "folder": DataForm(
            "a folder with a folder of images for each class", lambda text: Path(text).is_dir(), open_folder
        ),
        "torchvision": DataForm(
            "torchvision:NAME:FOLDER", lambda text: text.startswith("torchvision:"), open_torchvision
        ),
        "factory": DataForm("file.py:dataset", _is_factory, open_factory),
    },
)
