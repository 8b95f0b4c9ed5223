"""Hostile inputs for the command line, made from a seed: command lines, plans, arrays and run directories.

    PYTHONPATH=src python tests/fuzz/hostile.py --inputs 10000 --seed 1

Each input starts as a valid one and is changed in one to three places. Allowed are: done, one sentence with status 2,
one sentence with status 1. An exception, more or less than one sentence, or 20 s are a fault. Commands run in
this process, which is a new one, so that a crash of native code ends it; --journal then names the input.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from plica.cli import app, main

SECONDS = 20  # of computing
WAITING = 120  # seconds in all, as other work may share the machine
NET = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))

def other():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
"""
PLAN = {
    "models": ["net.py:make", {"model": "net.py:other", "name": "second"}],
    "data": {"path": "d.npz", "n": 4},
    "questions": [
        {"ask": "min-radius", "metric": ["l2"]},
        {"ask": "max-loss", "metric": "linf", "radius": "8/255", "loss": "margin"},
        {"ask": "max-loss", "metric": "linf", "radius": "0.1", "certify": {"nodes": 1}, "levels": 11},
    ],
    "methods": ["auto", {"name": "pwcf", "gradients": 3}],
    "gradients": 3,
    "chunk": 2,
    "seed": 0,
    "device": "cpu",
    "bounds": [0, 1],
}
ASK = "--model net.py:make --data d.npz --metric l2 --gradients 3 --n 2"
BRACKET = "--model net.py:make --data d.npz --metric l2 --gradients 3 --n 2 --nodes 2"
TRAIN = {
    "model": "net.py:make",
    "data": "d.npz",
    "questions": [{"ask": "min-radius", "metric": "l2", "cap": 0.5}],
    "epochs": 1,
    "batch": 2,
    "held_out": 2,
    "report_n": 2,
    "report_gradients": 2,
}
LINES = [
    f"radius {ASK} --out new",
    f"radius {ASK} --method pwcf --seed 3 --bounds 0,1 --device cpu --sample balanced --out new",
    f"radius {ASK} --overwrite --out runs/l2",
    "radius --model net.py:make --data d.npz --metric l1.5 --gradients 2 --indices 0-1,3 --out new",
    "radius --model net.py:make@0.5/0.25 --data x.npy,y.npy --metric linf --gradients 2 --n 1 --out new",
    f"attack {ASK} --radius 8/255 --loss ce --out new",
    f"attack {ASK} --radius 0.5 --method square --out new",
    f"evaluate {ASK} --method auto --method pwcf --out new",
    f"evaluate {ASK} --radius 0.1 --loss dlr --individual --batch-size 2 --out new",
    "evaluate plan.yaml --n 2 --shard 1/2 --engine local --out new",
    "evaluate plan.yaml --out runs/all",
    "doctor --model net.py:make --data d.npz --images 1 --seed 0",
    "audit runs/l2 --trust",
    "audit runs/all --model make=net.py:make --model second=net.py:other",
    "audit runs/l2 --model net.py:make --data d.npz --metric l2",
    "show runs/l2 runs/all",
    "compare runs/all --by model --json new.json",
    "export runs/all --out tables",
    "merge runs/one runs/two --out new",
    "plan new.yaml",
    "report runs/l2 -o new.html --title t",
    f"radius {ASK} --levels 6 --out new",
    f"attack {ASK} --radius 0.3 --draws 2 --out new",
    "export runs/l2 --out tables --png",
    f"bracket {BRACKET} --out new",
    f"bracket {BRACKET} --out runs/both",
    "train train.yaml --out new",
]
READERS = [  # of a run directory that stands in RUN, beside others that are whole
    "show RUN",
    "show RUN runs/l2",
    "audit RUN --trust",
    "audit RUN --model net.py:make --data d.npz",
    "export RUN --out tables",
    "compare RUN --by method",
    "compare RUN runs/l2 --by model",
    "export RUN --out tables --png",
    f"bracket {BRACKET} --out RUN",
    "merge RUN runs/two --out new",
    "merge runs/one RUN --out new",
    "evaluate plan.yaml --out RUN",
    f"radius {ASK} --overwrite --out RUN",
    "doctor RUN --images 1 --trust",
]
SLOW_READERS = ["report RUN -o new.html", "figures RUN -o figures"]
PLAIN_WORDS = """
- -- -1 0 1 nan inf -inf 1e400 1e-400 1e308 8/ /8 1/0 8/255 1_0 0x10 true null [] {} % %s {0} * ~ $HOME \\ l0
l-1 linf l1e400 lnan l1e-300 theta lpips flow hue recolor ce dlr nope auto square fab-t apgd-ce autoattack .
.. / /dev/null/x /dev/full d.npz net.py net.py: :make net.py:make net.py:nothing math:pi plan.yaml runs
runs/l2 runs/l2/summary.json x.npy,y.npy x.npy, , x.onnx x.pt x.pt2 onnx timm:x torchvision:CIFAR10:. @half @/
net.py:make@1,2/0 0,1 1,0 0,0 nan,1 -1e400,1e400 0,1,2 1/2 3/2 0/1 0-99999999 5-1 -5 random balanced cuda meta
cuda:99 mps cpu
"""
WORDS = [
    *PLAIN_WORDS.split(),
    *("", " ", "\n", "\t", "x\0y", "bad\udcff", "\x1b[31mred\x1b[0m", "ab\u202ecd"),
    *("9" * 30, "9" * 5000, "1/" + "9" * 25, "a" * 300, "a" * 5000, "é" * 200),
]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 10**30, 2**63, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "8/255", "1_0", "l2", "0-3", "1,1", "../x", "auto", "max-loss", "net.py:make"),
    *("a" * 3000, "9" * 40, "\x1b[31m", "\u202e"),
    *([], {}, [[]], [1, 2], {"a": 1}, [None], [["x"] * 3] * 3),
]
TYPES = [
    pa.string(),
    pa.int64(),
    pa.float64(),
    pa.bool_(),
    pa.binary(),
    pa.null(),
    pa.int8(),
    pa.list_(pa.int64()),
    pa.large_string(),
]


class Hang(BaseException):
    """The time is over."""


@dataclass
class Outcome:
    """What came of the inputs, by kind and status, and the faults: sentence -> first input."""

    counts: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)
    slowest: float = 0.0


def prepare(folder: Path) -> None:
    """The valid inputs from which all others are made."""
    app.app = typer.main.get_command(app.app)  # made once, not for every command
    (folder / "net.py").write_text(NET)
    rng = np.random.default_rng(0)
    x, y = rng.random((6, 1, 4, 4), dtype=np.float32), np.array([0, 1, 2, 0, 1, 2])
    np.savez(folder / "d.npz", x=x, y=y)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    (folder / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    (folder / "train.yaml").write_text(yaml.safe_dump(TRAIN))
    for line in (
        f"radius {ASK} --out runs/l2", "evaluate plan.yaml --out runs/all",
        "evaluate plan.yaml --shard 1/2 --out runs/one", "evaluate plan.yaml --shard 2/2 --out runs/two",
        f"bracket {BRACKET} --out runs/both",
    ):  # fmt: skip
        assert main(line.split()) == 0, line


def changed_line(dice: random.Random) -> list[str]:
    """A command line with words replaced, added, removed or misspelt."""
    words = dice.choice(LINES).split()
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(words))
        how = dice.randrange(6)
        if how <= 2:
            words[at] = dice.choice(WORDS)
        elif how == 3 and len(words) > 1:
            del words[at]
        elif how == 4:
            words.insert(at, dice.choice([*WORDS, *dice.choice(LINES).split()]))
        else:
            words[at] = misspelt(words[at], dice)
    return words


def misspelt(text: str, dice: random.Random) -> str:
    at = dice.randrange(len(text) + 1)
    return (
        text[:at] + dice.choice(["", "\0", "0", "-", "/", ":", "é", ".", ",", "\x1b"]) + text[at + dice.randrange(2) :]
    )


def changed_value(value: Any, dice: random.Random) -> Any:
    """A nested value with one part replaced, removed, renamed, doubled or put one level deeper."""
    places: list[tuple[Any, Any]] = []

    def walk(part: Any) -> None:
        for key in list(part) if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ():
            places.append((part, key))
            walk(part[key])

    value = copy.deepcopy(value)
    walk(value)
    if not places:
        return dice.choice(VALUES)
    part, key = dice.choice(places)
    how = dice.randrange(5)
    if how <= 1:
        part[key] = copy.deepcopy(dice.choice(VALUES))
    elif how == 2:
        del part[key]
    elif how == 3 and isinstance(part, dict):
        part[dice.choice(WORDS)] = part.pop(key)
    else:
        part[key] = [part[key], part[key]]
    return value


def changed_bytes(content: bytes, dice: random.Random) -> bytes:
    """Bytes with some replaced, the end cut off, or a part repeated."""
    if not content:
        return b"\0"
    how, at = dice.randrange(4), dice.randrange(len(content))
    if how == 0:
        return content[:at]
    if how == 1:
        return content[:at] + content[at // 2 :]
    changed = bytearray(content)
    for _ in range(dice.choice([1, 4, 40])):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


def plan_case(dice: random.Random) -> list[str]:
    trains = dice.random() < 0.1
    plan: Any = TRAIN if trains else PLAN
    for _ in range(dice.randint(1, 3)):
        plan = changed_value(plan, dice)
    text = yaml.safe_dump(plan, allow_unicode=True) if dice.random() < 0.5 else json.dumps(plan)
    content = text.encode(errors="surrogateescape")
    Path("changed.yaml").write_bytes(changed_bytes(content, dice) if dice.random() < 0.2 else content)
    return ["train" if trains else "evaluate", "changed.yaml", *([] if trains else ["--n", "2"]), "--out", "new"]


def changed_array(array: np.ndarray, dice: random.Random) -> np.ndarray:
    """An array of another type, shape, order or with another value."""
    how = dice.randrange(7)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == 0:
            array = array.astype(
                dice.choice(["u1", "i1", "i8", "u8", "f2", "f8", "c8", "?", "U3", "S2", "M8[s]", ">f4", ">i2", "g"])
            )
        elif how == 1:
            array = array.reshape(
                dice.choice([(-1,), (6, -1), (1, -1), (2, 3, -1), (-1, 1), (0, 7, array.size)][: 5 + (array.size == 0)])
            )
        elif how == 2 and array.dtype.kind in "fiu" and array.size:
            array = array.copy()
            array.flat[dice.randrange(array.size)] = dice.choice(
                [0, 1, 2, 255] + [-1, np.nan, np.inf, 1e30] * (array.dtype.kind == "f")
            )
        elif how == 3:
            array = array[: dice.randrange(len(array) + 1)] if array.ndim else array
        elif how == 4:
            array = np.asfortranarray(array)
        elif how == 5:
            array = array.reshape(array.shape, order="C")[..., None]
        else:
            array = np.array(dice.choice([0, 0.5, [], [[1]], "text", None]))
    return array


def array_case(dice: random.Random) -> list[str]:
    with np.load("d.npz") as stored:
        arrays = {"x": stored["x"], "y": stored["y"]}
    for _ in range(dice.randint(0, 2)):
        name = dice.choice("xy")
        with contextlib.suppress(TypeError, ValueError):  # numpy has no such change of this array
            arrays[name] = changed_array(arrays[name], dice)
    data = dice.choice(["c.npz", "z.npz", "cx.npy,cy.npy", "c.safetensors", "c.npz", "c.parquet"])
    if data == "c.safetensors":
        try:
            save_file({name: torch.as_tensor(np.ascontiguousarray(array)) for name, array in arrays.items()}, data)
        except (TypeError, ValueError):  # an array that torch has not
            data = "c.npz"
    if data == "c.parquet":
        pq.write_table(pa.table({"image": [b"no picture"] * 3, "label": [0, 1, 2]}), data)
    if data.endswith("npz"):
        (np.savez_compressed if data == "z.npz" else np.savez)(data, **arrays)
    files = data.split(",")
    if "," in data:
        for file, array in zip(files, arrays.values(), strict=True):
            np.save(file, array)
    if dice.random() < 0.4:
        file = Path(dice.choice(files))
        file.write_bytes(changed_bytes(file.read_bytes(), dice))
    command = dice.choice([["radius"], ["evaluate"], ["attack", "--radius", "0.1"]])
    options = ["--model", "net.py:make", "--metric", "l2", "--gradients", "2", "--data", data, "--out", "new"]
    return [
        *command,
        *options,
        *dice.choice([[], ["--n", "2"], ["--sample", "balanced", "--n", "3"], ["--bounds", "0,300"]]),
    ]


def run_case(dice: random.Random) -> list[str]:
    source = Path(dice.choice(["runs/l2", "runs/all", "runs/one", "runs/both"]))
    shutil.copytree(source, "changed", copy_function=shutil.copyfile)
    for _ in range(dice.randint(1, 2)):
        change_file(dice.choice(sorted(path for path in Path("changed").rglob("*") if path.is_file())), dice)
    line = dice.choice(SLOW_READERS if dice.random() < 0.05 else READERS)
    return [word.replace("RUN", "changed") for word in line.split()]


UNCHANGEABLE = (pa.ArrowException, SafetensorError, OSError, ValueError, TypeError, RuntimeError, LookupError)
UNCHANGEABLE += (OverflowError,)


def change_file(file: Path, dice: random.Random) -> None:
    """A file of a run, cut off or changed in a way that its format allows."""
    how = dice.random()
    try:
        if how < 0.08:
            file.unlink()
        elif how < 0.3 or file.suffix not in CHANGES:
            file.write_bytes(changed_bytes(file.read_bytes(), dice))
        else:
            CHANGES[file.suffix](file, dice)
    except UNCHANGEABLE:
        file.write_bytes(changed_bytes(file.read_bytes(), dice))  # what cannot be changed so, or is broken already


def change_json(file: Path, dice: random.Random) -> None:
    file.write_text(json.dumps(changed_value(json.loads(file.read_text()), dice)))


def change_table(file: Path, dice: random.Random) -> None:
    table = pq.read_table(file)
    name = dice.choice(table.column_names)
    at, values, how = table.column_names.index(name), table[name].to_pylist(), dice.randrange(7)
    if how == 0:
        table = table.drop_columns([name])
    elif how == 1:
        table = table.rename_columns([dice.choice(WORDS) if other == name else other for other in table.column_names])
    elif how == 2:
        kind = dice.choice(TYPES)
        table = table.set_column(
            at, name, pa.array([None if kind == pa.null() else cast(v, kind) for v in values], kind)
        )
    elif how == 3 and values:
        values[dice.randrange(len(values))] = None
        table = table.set_column(at, name, pa.array(values, table.schema.field(name).type))
    elif how == 4 and values:
        kind = table.schema.field(name).type
        values[dice.randrange(len(values))] = cast(
            dice.choice([-1, 0, 1, 7, 10**6, 0.5, float("nan"), float("inf"), "\x1b[31m"]), kind
        )
        table = table.set_column(at, name, pa.array(values, kind))
    elif how == 5:
        table = table.slice(0, dice.randrange(len(table) + 1))
    else:
        table = pa.concat_tables([table, table.slice(0, 1)])
    pq.write_table(table, file)


def cast(value: Any, kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return [1]
    if pa.types.is_integer(kind):
        return 1 if not isinstance(value, int | float) or value != value or abs(value) > 100 else int(value)
    if pa.types.is_boolean(kind):
        return bool(value)
    if pa.types.is_floating(kind):
        return float(value) if isinstance(value, int | float) else 0.5
    return str(value).encode() if pa.types.is_binary(kind) else str(value)


def change_tensors(file: Path, dice: random.Random) -> None:
    tensors = load_file(file)
    name = dice.choice(list(tensors))
    tensor, how = tensors[name], dice.randrange(7)
    if how == 0:
        del tensors[name]
    elif how == 1:
        tensors[dice.choice(["other", "x", "y", "id", "x_adv", "theta", "\x1b[31m"])] = tensors.pop(name)
    elif how == 2:
        tensors[name] = tensor.to(
            dice.choice([torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool, torch.bfloat16])
        )
    elif how == 3:
        tensors[name] = tensor.flatten()
    elif how == 4:
        tensors[name] = tensor[: dice.randrange(len(tensor) + 1)].clone()
    elif how == 5:
        tensors[name] = torch.cat([tensor, tensor[:1]])
    else:
        flat = tensor.clone().flatten()
        value = (
            dice.choice([-1.0, 2.0, float("nan"), float("inf"), 1e30])
            if tensor.is_floating_point()
            else dice.choice([0, 1, 99])
        )
        if len(flat):
            flat[dice.randrange(len(flat))] = value
        tensors[name] = flat.view_as(tensor)
    save_file({key: value.contiguous() for key, value in tensors.items()}, file)


CHANGES: dict[str, Callable[[Path, random.Random], None]] = {
    ".json": change_json, ".parquet": change_table, ".safetensors": change_tensors
}  # fmt: skip
KINDS = {"line": changed_line, "plan": plan_case, "array": array_case, "run": run_case}
SHARES = (4, 2, 2, 4)  # of the kinds; a command line and a run directory have the most places to change


def outcome_of(words: list[str]) -> tuple[int, str]:
    """The status of a command, and what is wrong with how it ended: nothing, or a sentence."""
    out, err = io.StringIO(), io.StringIO()

    def late(*_: object) -> None:
        raise Hang

    former = [(number, signal.signal(number, late)) for number in (signal.SIGALRM, signal.SIGPROF)]
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(WAITING)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            status = int(main(words))
    except Hang:
        return -1, f"took more than {SECONDS} s of computing, or {WAITING} s in all"
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return -1, f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in former:
            signal.signal(number, handler)
    said = [
        line for line in err.getvalue().splitlines() if line.startswith("plica: ") and ": warning: " not in line[:20]
    ]
    if "\x1b" in out.getvalue() + err.getvalue():
        return status, "a terminal would obey what was said"
    if status == 2 and len(said) != 1:
        return status, f"status 2 with {len(said)} sentences: {err.getvalue()[:200]}"
    if status == 2 and (not said[0].endswith((".", "?")) or len(said[0]) > 2000):
        return status, f"no sentence: {said[0][:200]}"
    if status == 1 and not said and not out.getvalue():
        return status, "status 1 without a word"
    return status, "" if status in (0, 1, 2) else f"status {status}"


def run(inputs: int, seed: int, journal: Path | None = None, first: int = 0) -> Outcome:
    """Try so many inputs, each in the current folder as it was at the beginning."""
    outcome, whole = Outcome(), Path.cwd()
    for number in range(first, first + inputs):
        dice = random.Random(f"{seed}-{number}")
        kind = dice.choices(list(KINDS), SHARES)[0]
        with tempfile.TemporaryDirectory(dir=whole.parent) as folder:
            shutil.copytree(whole, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
            os.chdir(folder)
            words = KINDS[kind](dice)
            if journal is not None:
                journal.write_text(f"{number} {kind} {words}")
            start = time.monotonic()
            status, fault = outcome_of(words)
            outcome.slowest = max(outcome.slowest, time.monotonic() - start)
            os.chdir(whole)
        outcome.counts[kind, status] += 1
        if fault:
            outcome.faults.setdefault(fault, f"input {number} of seed {seed}, {kind}: {[word[:60] for word in words]}")
    return outcome


def describe(outcome: Outcome) -> str:
    lines = []
    for kind in KINDS:
        counts = {status: n for (other, status), n in sorted(outcome.counts.items()) if other == kind}
        each = ", ".join(f"status {status}: {n}" for status, n in counts.items())
        lines.append(f"{kind:6} {sum(counts.values()):6} inputs: {each}")
    lines += [f"slowest {outcome.slowest:.1f} s, {len(outcome.faults)} different faults"]
    return "\n".join(lines + [f"FAULT {fault}\n      {example}" for fault, example in outcome.faults.items()])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--journal", type=Path, help="a file that names the input that is being tried")
    parser.add_argument("--room", type=Path, help="where files are made; best in memory, such as /dev/shm")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=given.room) as root:
        (Path(root) / "whole").mkdir()
        os.environ["XDG_STATE_HOME"] = str(Path(root) / "state")
        os.chdir(Path(root) / "whole")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            prepare(Path.cwd())
        result = run(given.inputs, given.seed, given.journal and given.journal.absolute(), given.first)
        os.chdir(root)
    print(describe(result))
    sys.exit(bool(result.faults))
