"""Every form in which a model may be given: one line each in FORMS, by the prefix or suffix of its specification. A
new one: docs/extend.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from plica.models.adapt import LoadedModel
from plica.models.huggingface import load_huggingface
from plica.models.onnx import load_onnx
from plica.models.programs import load_exported_program, load_torchscript
from plica.models.robustbench import load_robustbench
from plica.models.timm import load_timm
from plica.models.torchvision import load_torchvision
from plica.utils.registry import Registry


@dataclass(frozen=True)
class ModelForm:
    """One form.

    Attributes:
        help: what to write.
        load: (name, pretrained, trust) -> LoadedModel. The name is what follows the prefix, or the whole path.
            pretrained is False if a file of weights replaces the model's own; trust allows code that comes with the
            model.
        holds_weights: whether it always contains weights, so that no others can be given.
    """

    help: str
    load: Callable[[str, bool, bool], LoadedModel]
    holds_weights: bool = False


def form_of(spec: str) -> tuple[ModelForm, str] | None:
    """The form of a text and the name to load; None where the text names a Python function."""
    for key in FORMS:
        if key.endswith(":") and spec.startswith(key):
            return FORMS[key], spec.removeprefix(key)
        if spec.endswith(key):
            return FORMS[key], spec
    return None


def help_text() -> str:
    """All forms in one line, for messages and the command line."""
    return ", ".join(
        ["file.py:factory or package.module:factory", *dict.fromkeys(form.help for form in FORMS.values())]
    )


TORCHSCRIPT = ModelForm("net.ts or net.pt (TorchScript)", load_torchscript, holds_weights=True)
# forms by their prefix, which ends in a colon, or by their suffix
FORMS = Registry(
    "plica.models",
    {
        "torchvision:": ModelForm("torchvision:NAME", load_torchvision),
        "timm:": ModelForm("timm:NAME", load_timm),
        "hf:": ModelForm("hf:FOLDER-OR-ID", load_huggingface),
        "robustbench:": ModelForm("robustbench:ID", load_robustbench),
        ".onnx": ModelForm("net.onnx", load_onnx, holds_weights=True),
        ".pt2": ModelForm("net.pt2 (torch.export)", load_exported_program, holds_weights=True),
        **dict.fromkeys((".ts", ".torchscript", ".pt", ".pth"), TORCHSCRIPT),
    },
)
