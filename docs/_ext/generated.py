"""Parts of the reference that the site makes from the code: the commands, the keys of plans, the files of a run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from plica.evaluation.plan import Plan
from plica.runs import schema
from plica.training.plan import TrainingPlan


class Generated(SphinxDirective):
    """Markdown that a function writes, in the place of the directive."""

    def markdown(self) -> Iterator[str]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes("\n".join(self.markdown()), allow_section_headings=True)


class Commands(Generated):
    """Every command of plica with all its arguments and options, as typer's own documentation writes them."""

    def markdown(self) -> Iterator[str]:
        command = [sys.executable, "-m", "typer", "plica.cli.app", "utils", "docs", "--name", "plica"]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        text = text[text.index("## ") :]  # from the first command on; what stands above is on the page itself
        yield re.sub(r"^(#+) `(.*)`$", r"\1 \2", text, flags=re.MULTILINE)


class PlanSchema(Generated):
    """Every key of a plan of `evaluation` or of `training`: its type, default, and what its record says of it."""

    required_arguments = 1

    def markdown(self) -> Iterator[str]:
        schema = {"evaluation": Plan, "training": TrainingPlan}[self.arguments[0]].model_json_schema()
        records = {schema["title"]: schema} | schema["$defs"]
        for name, record in records.items():
            yield from (f"## {TITLES[name]}", "")
            yield from (" ".join(paragraph.split()) + "\n" for paragraph in record["description"].split("\n\n"))
            required = record.get("required", [])
            yield from table(
                ("key", "takes", "default"),
                [
                    (f"`{key}`", _takes(value), "required" if key in required else _written(value.get("default")))
                    for key, value in record["properties"].items()
                ],
            )


class RunFiles(Generated):
    """The files of a run directory, `EVALUATION` or `SINGLE` of plica.runs.schema, and what each of them contains."""

    required_arguments = 1

    def markdown(self) -> Iterator[str]:
        files: tuple[schema.File, ...] = getattr(schema, self.arguments[0])
        yield from table(("file", "contains"), [(f"`{file.path}`", file.meaning) for file in files])
        for file in files:
            if file.columns:
                yield from (f"### {PARTS[Path(file.path).suffix]} of {file.path}", "")
                rows = [(f"`{column.name}`", f"`{column.type}`", column.meaning) for column in file.columns]
                yield from table(("name", "type", "is"), rows)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """A table of cells in Markdown."""
    yield from (":::{list-table}", ":header-rows: 1", ":class: options", "")
    for first, *rest in (head, *rows):
        yield f"* - {first}"
        yield from (f"  - {cell}" for cell in rest)
    yield from (":::", "")


PARTS = {".parquet": "Columns", ".safetensors": "Tensors", ".json": "Keys"}
TITLES = {
    "Plan": "The plan",
    "Certify": "`certify`",
    "Data": "`data`",
    "Method": "An entry of `methods`",
    "Model": "A model",
    "Optimizer": "`optimizer`",
    "Question": "An entry of `questions`",
    "TrainingPlan": "The plan",
    "TrainingQuestion": "An entry of `questions`",
}


def _takes(value: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"a record, see [{TITLES[name].replace('`', '')}](#{_slug(TITLES[name])})"
    if "enum" in value:
        return ", ".join(f"`{word}`" for word in value["enum"])
    if "anyOf" in value:
        return " or ".join(_takes(part) for part in value["anyOf"] if part.get("type") != "null")
    if "prefixItems" in value:
        return f"a list of {len(value['prefixItems'])} numbers"
    if value.get("type") == "array":
        return f"one or a list: {_takes(value['items'])}"
    least = f" of at least {value['minimum']}" if "minimum" in value else ""
    return {"string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false"}[
        value["type"]
    ] + least


def _slug(title: str) -> str:
    return re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")


def _written(value: Any) -> str:
    """A default as YAML has it."""
    if value in (None, "", []):
        return ""
    if isinstance(value, dict):
        return f"`{value['name']}`"
    if isinstance(value, list) and isinstance(value[0], dict):
        return ", ".join(f"`{record['name']}`" for record in value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("plica-commands", Commands)
    app.add_directive("plica-plan", PlanSchema)
    app.add_directive("plica-run-files", RunFiles)
    return {"parallel_read_safe": True}
