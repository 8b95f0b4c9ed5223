"""The README as a package index shows it, where links and pictures relative to this folder lead nowhere.

With an address under "Repository" in [project.urls], they lead there, to the tag of this version. Without one, links
become their words, and pictures with their captions are left out.
"""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

PICTURE = re.compile(
    r"!\[([^\]]*)\]\((?!https?:)([^)]+)\)(\n\n\*[^*]+\*)?\n\n"
)  # a paragraph, and its caption in italics
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)]+)\)")


def index_readme(text: str, repository: str | None, version: str) -> str:
    """README.md's text with absolute links, or without links where the repository has no address."""
    if repository is None:
        return LINK.sub(r"\1", PICTURE.sub("", text))
    text = PICTURE.sub(rf"![\1]({repository}/raw/v{version}/\2)\3\n\n", text)
    return LINK.sub(rf"[\1]({repository}/blob/v{version}/\2)", text)


class ReadmeHook(MetadataHookInterface):
    """Sets the dynamic field `readme`."""

    def update(self, metadata: dict) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": index_readme(text, repository, metadata["version"]),
        }
