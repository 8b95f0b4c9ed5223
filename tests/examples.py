"""The examples of a Markdown page, run as printed, from top to bottom, in one folder.

Python blocks share their names, as one script does. Commands of plica run in the same process, which saves their
start, other commands in a shell. A block with the caption of a file name is that file. `python examples.py PAGE` runs
a page in the current folder; with --stand-in, a small network takes the place of the demonstration's, which takes most
of the time.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import plica.demo

LANGUAGES = {"python": "python", "ipython3": "python", "sh": "sh", "yaml": "yaml"}
FENCE = re.compile(
    r"^(?P<fence>`{3,})(?:\{(?:code-block|code-cell)\} )?(?P<language>\w+)\n"
    r"(?P<options>(?::[\w-]+:.*\n)*)(?P<code>[\s\S]*?)^(?P=fence)$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line it begins in, and what its options say."""

    language: str
    code: str
    line: int
    options: dict[str, str]

    @property
    def file(self) -> str | None:
        """The file that the block shows the content of."""
        return self.options.get("caption")

    @property
    def runs(self) -> bool:
        """Whether what the block needs beside plica is installed: `:class: needs-ray` names a package."""
        needed = self.options.get("class", "").removeprefix("needs-")
        return not needed or importlib.util.find_spec(needed) is not None


def blocks(text: str, language: str | None = None) -> list[Block]:
    """The blocks of a page that can be run or are files; those of one language, where it is named."""
    found = []
    for match in FENCE.finditer(text):
        known = LANGUAGES.get(match["language"])
        options = dict(re.findall(r"^:([\w-]+):\s*(.*)$", match["options"], re.MULTILINE))
        if known and language in (None, known):
            line = text.count("\n", 0, match.start("code"))
            found.append(Block(known, match["code"], line, options))
    return found


def shell(*command: str, folder: Path | None = None) -> str:
    """What a command says, the scripts of this Python's environment on its path; its errors fail the test."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # One thread, that gives its core away when it waits: the examples are small, and other tests run beside them.
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def run_page(page: Path, folder: Path, stand_in: bool = False) -> str:
    """Run a page's examples in a folder, and give what they print."""
    return shell(sys.executable, __file__, str(page), *["--stand-in"] * stand_in, folder=folder)


def small_network() -> nn.Module:
    """A network that names the demonstration's images, and has others around each that it names otherwise."""
    x, y = plica.demo.images()
    generator = torch.Generator().manual_seed(0)
    inner = nn.Linear(x[0].numel(), 256)
    inner.weight.data, inner.bias.data = (
        200 * torch.randn(part.shape, generator=generator) / len(part) for part in (inner.weight, inner.bias)
    )
    net = nn.Sequential(nn.Flatten(), inner, Sine())
    outer = nn.Linear(256, 10, bias=False)
    outer.weight.data = torch.linalg.lstsq(net(x), nn.functional.one_hot(y, 10).float(), driver="gelsd").solution.T
    return net.append(outer).eval().requires_grad_(False)


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


def main(page: Path) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page.read_text()):
        if block.file is not None:
            Path(block.file).write_text(block.code)
        elif block.language == "python":
            # as many empty lines before it as on the page, so that a traceback names the page's own line
            exec(compile("\n" * block.line + block.code, str(page), "exec"), names)
        elif block.language == "sh" and block.runs:
            for line in block.code.splitlines():
                command(line)


def command(line: str) -> None:
    """Run one line of a shell block."""
    program, *arguments = shlex.split(line) or ["true"]
    if program != "plica":
        print(shell("/bin/sh", "-c", line))
        return
    from plica.cli import main as plica

    assert plica(arguments) == 0, line


if __name__ == "__main__":
    sys.path.insert(0, "")  # files of the page can be imported
    if "--stand-in" in sys.argv:
        plica.demo.resnet18 = small_network
    main(Path(sys.argv[1]))
