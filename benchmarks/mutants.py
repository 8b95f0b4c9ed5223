"""Small changes to the code that decides what is reported: does a test fail for each?

    python benchmarks/mutants.py --sample 200 --seed 0 --into build/mutants.json

Of every place in FILES, or in --files, where a number, comparison, operator, function, truth value or statement can be
changed, a seeded sample is taken. First the fast tests of TESTS run once and note which lines they execute (kept in
build/, for each file of tests until it or FILES change). Then each change is made in a copy of the package, and if it
stands in a function also in a fork of this process, which has imported the package already; and the tests that execute
its line run, those of the file of the same name first, then the quickest, until one fails or SECONDS are over. A change
that no test notices is a survivor; mutants.txt names those that cannot be noticed, with the reason. Outcomes are
written as they come: a run that was broken off goes on, and changes that were noticed are not tried again while their
file stands as it is.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import hashlib
import importlib
import json
import math
import os
import pickle
import pkgutil
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import types
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from inspect import CO_NEWLOCALS
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = [
    "api/batch.py",
    "api/entry.py",
    "api/judged.py",
    "attacks/levels/descent.py",
    "attacks/levels/points.py",
    "attacks/levels/rounding.py",
    "attacks/levels/search.py",
    "certify/certificate.py",
    "certify/prove.py",
    "certify/radius.py",
    "core/domain/bounds.py",
    "core/domain/levels.py",
    "core/domain/read_bounds.py",
    "core/domain/units.py",
    "core/goals.py",
    "core/judging/best.py",
    "core/judging/confirm.py",
    "core/judging/judge.py",
    "core/judging/majority.py",
    "core/model/draws.py",
    "core/model/least_margin.py",
    "core/model/rounding.py",
    "core/model/second_run.py",
    "evaluation/worker.py",
    "runs/points.py",
    "runs/write.py",
    "trust/audit/audit.py",
    "trust/audit/certificates.py",
    "trust/audit/quantization.py",
    "trust/audit/reference.py",
    "trust/audit/remeasure.py",
    "utils/files.py",
]
TESTS = [
    "tests/test_api.py",
    "tests/test_draws.py",
    "tests/test_goals_of_users.py",
    "tests/test_judged.py",
    "tests/test_precision.py",
    "tests/attacks/test_level_descent.py",
    "tests/attacks/test_level_parts.py",
    "tests/attacks/test_level_rounding.py",
    "tests/attacks/test_levels.py",
    "tests/certify",
    "tests/core",
    "tests/evaluation",
    "tests/runs",
    "tests/trust/audit",
    "tests/utils",
]
SECONDS = 30.0  # of tests for one change, in seconds of the processor that they took on the code as it is
PATIENCE = 20.0  # times as long, and two minutes, before a change counts as noticed by hanging

# Lines of "file: line as it stands: change", each group of them under the reason why no test can notice.
EQUIVALENT = Path(__file__).with_suffix(".txt")

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Pow: ast.Mult,
}  # fmt: skip
NAMES = {
    "any": "all", "all": "any", "amin": "amax", "amax": "amin", "min": "max", "max": "min", "minimum": "maximum",
    "maximum": "minimum", "argmax": "argmin", "isfinite": "isnan", "isnan": "isfinite",
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change: of the node at `path` from the root of the file's `tree` to `new`; `line` is its line's number."""

    file: str
    line: int
    before: str
    change: str
    tree: ast.Module
    path: tuple
    new: ast.AST

    @property
    def key(self) -> str:
        return f"{self.file}: {self.before}: {' '.join(self.change.split())}"

    @cached_property
    def code(self) -> str:
        """The whole file with it."""
        changed = copy.deepcopy(self.tree)
        parent: object = changed
        for name, i in self.path[:-1]:
            parent = getattr(parent, name) if i is None else getattr(parent, name)[i]
        name, i = self.path[-1]
        if i is None:
            setattr(parent, name, self.new)
        else:
            getattr(parent, name)[i] = self.new
        return ast.unparse(ast.fix_missing_locations(changed))

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.code.encode()).hexdigest()

    @property
    def function(self) -> str | None:
        """The qualified name of the outermost function in whose body it stands; None for a change outside of any."""
        names, node = [], self.tree
        for name, i in self.path:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names.append(node.name)
            if isinstance(node, ast.FunctionDef):
                return ".".join(names) if name == "body" else None
            node = getattr(node, name) if i is None else getattr(node, name)[i]
        return None


def codes(code: types.CodeType, outer: str = "") -> Iterator[tuple[str, types.CodeType]]:
    """The functions of a module and of its classes, by qualified name."""
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            name = outer + part.co_name
            yield name, part
            if not part.co_flags & CO_NEWLOCALS:  # the body of a class
                yield from codes(part, f"{name}.")


def import_package(root: Path) -> dict[tuple[str, str], list[types.FunctionType]]:
    """All of the package, its types checked as in the tests; its functions, by file and qualified name."""
    sys.path[:0] = [str(root), "tests"]
    import jaxtyping
    import torch

    import typechecking  # noqa: F401  # type: ignore[import-not-found]

    jaxtyping.install_import_hook("plica", "typechecking.check")
    import plica

    for module in pkgutil.walk_packages(plica.__path__, "plica."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):  # of an optional package
                importlib.import_module(module.name)
    torch.testing.assert_close(torch.ones(1), torch.ones(1))  # imports much of torch
    functions = defaultdict(list)
    for found in gc.get_objects():
        if type(found) is types.FunctionType and found.__code__.co_filename.startswith(str(root)):
            functions[found.__code__.co_filename, found.__qualname__].append(found)
    gc.freeze()  # pytest collects garbage at its end, and this is none
    return functions


def changed_in_place(mutant: Mutant, file: str, functions: dict[tuple[str, str], list[types.FunctionType]]) -> bool:
    """Whether the function that it changes was found among those imported from the file, and changed."""
    new = [code for name, code in codes(compile(mutant.code, file, "exec")) if name == mutant.function]
    old = functions.get((file, mutant.function or ""), [])
    if len(new) != 1 or len(old) != 1:
        return False
    old[0].__code__ = new[0]
    return True


def forget_package() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "plica"]:
        del sys.modules[name]


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What may stand in place of a node, each with words for it."""
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            if type(op) in COMPARISONS:
                new = copy.deepcopy(node)
                new.ops[i] = COMPARISONS[type(op)]()
                yield ast.unparse(new), new
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in OPERATORS:
        new = copy.deepcopy(node)
        new.op = OPERATORS[type(node.op)]()
        yield ast.unparse(new), new
    elif isinstance(node, ast.BoolOp):
        new = copy.deepcopy(node)
        new.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield ast.unparse(new), new
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert | ast.USub):
        yield ast.unparse(node.operand), node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield str(not node.value), ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        for value in (
            {node.value + 1, node.value * 2} - {node.value} if isinstance(node.value, float) else {node.value + 1}
        ):
            yield f"{node.value} -> {value}", ast.Constant(value)
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield f".{node.attr} -> .{NAMES[node.attr]}", ast.Attribute(node.value, NAMES[node.attr], node.ctx)
    elif isinstance(node, ast.Name) and node.id in NAMES:
        yield f"{node.id} -> {NAMES[node.id]}", ast.Name(NAMES[node.id], node.ctx)
    elif isinstance(node, ast.IfExp):
        yield f"always {ast.unparse(node.body)}", node.body
        yield f"always {ast.unparse(node.orelse)}", node.orelse
    elif isinstance(node, ast.If | ast.While) and not isinstance(node.test, ast.UnaryOp | ast.Compare):
        new = copy.copy(node)
        new.test = ast.UnaryOp(ast.Not(), node.test)
        yield f"if not {ast.unparse(node.test)}", new
    if (
        isinstance(node, ast.AugAssign)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
        or (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript))
    ):
        yield f"without {ast.unparse(node)}", ast.Pass()


def places(tree: ast.AST, path: tuple = ()) -> Iterator[tuple[tuple, ast.AST]]:
    """Every node, with the way to it from the root; none in annotations, messages, assertions, docstrings and
    `__str__`."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        for i, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Raise | ast.JoinedStr | ast.Assert):
                continue
            if isinstance(child, ast.FunctionDef) and child.name in ("__str__", "__repr__"):
                continue
            if isinstance(child, ast.Subscript) and isinstance(child.value, ast.Name) and child.value.id in _TYPES:
                continue
            if isinstance(child, ast.keyword) and child.arg == "strict":  # of zip: an assertion
                continue
            step = (*path, (name, i))
            yield step, child
            yield from places(child, step)


_TYPES = {"Callable", "Float", "Bool", "Int", "Int64", "Shaped", "Float64", "Literal", "Mapping", "Sequence"}


def mutants(file: str, source: str) -> list[Mutant]:
    """Every change of a file."""
    tree, lines, made = ast.parse(source), source.splitlines(), []
    for path, node in places(tree):
        for words, new in changes(node):
            line = node.lineno  # type: ignore[attr-defined] - every node that can be changed has one
            made.append(Mutant(file, line, lines[line - 1].strip(), words, tree, path, new))
    return made


class Recorder:
    """A plugin of pytest: the lines of some files that each test executes, and its seconds."""

    def __init__(self, package: Path, files: list[str]):
        self.files = {str(package / file): file for file in files}
        self.lines: dict[tuple[str, int], set[str]] = defaultdict(set)
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []

    def pytest_runtest_protocol(self, item, nextitem):
        from _pytest.runner import runtestprotocol

        start = sum(os.times()[:4])  # of the processor, of this process and those it started
        trace = tracer(self.files, self.lines, item.nodeid)
        threading.settrace(trace)
        sys.settrace(trace)
        reports = runtestprotocol(item, nextitem=nextitem, log=True)
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type] - as its documentation says
        self.seconds[item.nodeid] = sum(os.times()[:4]) - start
        self.failed += [item.nodeid for report in reports if report.failed]
        return True


def tracer(files: dict[str, str], lines: dict[tuple[str, int], set[str]], test: str):
    """A trace function that notes the executed lines of some files and looks into no other."""

    def inside(frame, event, arg):
        if event == "line":
            lines[files[frame.f_code.co_filename], frame.f_lineno].add(test)
        return inside

    def outside(frame, event, arg):
        file = files.get(frame.f_code.co_filename)
        if file is None:
            return None
        lines[file, frame.f_lineno].add(test)
        return inside

    return outside


def in_child(work, package_root: Path, output: Path, timeout: float) -> tuple[bool, object]:
    """`work()` in a forked process that imports the package from there: whether it hung, and what it returned."""
    answer = tempfile.NamedTemporaryFile(delete=False)  # noqa: SIM115 - read after the child has written it
    pid = os.fork()
    if pid == 0:
        os.setsid()
        with output.open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            sys.path.insert(0, str(package_root))
            os.environ["PYTHONPATH"] = str(package_root)
            try:
                Path(answer.name).write_bytes(pickle.dumps(work()))
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
    end = time.monotonic() + timeout
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        if time.monotonic() > end:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return True, None
        time.sleep(0.05)
    content = Path(answer.name).read_bytes()
    os.unlink(answer.name)
    return False, pickle.loads(content) if content else None


def run_tests(tests: list[str], plugins: list, stop: bool) -> int:
    """The exit status of pytest."""
    import pytest

    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=line", *(["-x"] if stop else [])]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of packages that this process has imported
    return int(pytest.main([*options, *tests], plugins=plugins))


def digest(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def test_files(tests: list[str]) -> list[Path]:
    return sorted(
        file for name in tests for file in ([Path(name)] if name.endswith(".py") else Path(name).rglob("test_*.py"))
    )


def baseline(workspace: Path, files: list[str], tests: list[str], kept: Path, end: float) -> Recorder:
    """The tests on the code as it is, all of which must pass; what each file of tests executes is kept in a folder."""
    package = workspace / "src" / "plica"
    sources = [package / file for file in files]
    together = Recorder(package, files)
    for file in test_files(tests):
        record = kept / f"{digest(file, *sources)}.pickle"
        if not record.is_file():
            if time.monotonic() > end:
                sys.exit("Out of time before the first change; the next run goes on.")

            def work(file: Path = file) -> Recorder:
                recorder = Recorder(package, files)
                if run_tests([str(file)], [recorder], stop=False) not in (0, 5):  # 5: all of them are slow ones
                    recorder.failed.append(str(file))
                return recorder

            hung, recorder = in_child(work, workspace / "src", workspace / "log", 7200)
            if hung or not isinstance(recorder, Recorder) or recorder.failed:
                failed = recorder.failed if isinstance(recorder, Recorder) else [str(file)]
                said = (workspace / "log").read_text()[-2000:]
                sys.exit(f"The tests must pass before changes are made; failed: {failed}\n{said}")
            kept.mkdir(parents=True, exist_ok=True)
            record.write_bytes(pickle.dumps((recorder.lines, recorder.seconds)))
        lines, seconds = pickle.loads(record.read_bytes())
        together.seconds |= seconds
        for place, names in lines.items():
            together.lines[place] |= names
    return together


def chosen_tests(mutant: Mutant, recorder: Recorder) -> list[str]:
    """Those that execute the line, or for a line that runs at import any of the file's; see above for their order."""
    tests = recorder.lines.get((mutant.file, mutant.line)) or set().union(
        *(tests for (file, _), tests in recorder.lines.items() if file == mutant.file)
    )
    own = f"test_{Path(mutant.file).stem}"
    chosen, spent = [], 0.0
    for test in sorted(tests, key=lambda test: (own not in test, recorder.seconds[test], test)):
        spent += recorder.seconds[test]
        if chosen and spent > SECONDS:
            break
        chosen.append(test)
    return chosen


def try_one(mutant: Mutant, recorder: Recorder, workspace: Path, imported: Path, functions: dict) -> str:
    """ "killed", "hung" or "survived"; imported, functions: the folder of the package as this process has it, and
    import_package's."""
    tests = chosen_tests(mutant, recorder)
    if not tests:
        return "survived"
    file = workspace / "src" / "plica" / mutant.file
    original = file.read_text()
    file.write_text(mutant.code)
    patience = 120 + PATIENCE * sum(recorder.seconds[test] for test in tests)

    def work() -> int:
        if not changed_in_place(mutant, str(imported / mutant.file), functions):
            forget_package()
        return run_tests(tests, [], stop=True)

    try:
        hung, status = in_child(work, workspace / "src", workspace / "log", patience)
    finally:
        file.write_text(original)
    return "hung" if hung else "survived" if status == 0 else "killed"


class Outcomes:
    """Of each change that was tried, in a file that grows; forgotten where its file changed since, and a survivor where
    tests changed."""

    def __init__(self, file: Path | None, tests: str):
        self.file, self.tests, self.rows = file, tests, {}
        if file is not None and file.is_file():
            self.rows = {(row["key"], row["line"]): row for row in json.loads(file.read_text())}

    def of(self, mutant: Mutant) -> str | None:
        row = self.rows.get((mutant.key, mutant.line))
        if row is None or row["code"] != mutant.digest or (row["outcome"] == "survived" and row["tests"] != self.tests):
            return None
        return row["outcome"]

    def add(self, mutant: Mutant, outcome: str) -> None:
        row = dict(key=mutant.key, line=mutant.line, outcome=outcome, code=mutant.digest, tests=self.tests)
        self.rows[mutant.key, mutant.line] = row
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(json.dumps(list(self.rows.values()), indent=1))


def equivalent() -> set[str]:
    """The lines of mutants.txt that name a change."""
    return {line.strip() for line in EQUIVALENT.read_text().splitlines() if line.startswith("    ")}


def copy_of_package(parent: Path, name: str) -> Path:
    workspace = parent / name
    shutil.copytree(ROOT / "src", workspace / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return workspace


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--sample", type=int, default=150, help="changes that are tried; 0 for all")
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--files", nargs="*", default=FILES, help="of src/plica")
    parse.add_argument("--tests", nargs="*", default=TESTS, help="that must notice")
    parse.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parse.add_argument("--minutes", type=float, default=math.inf, help="no further change is tried after so many")
    parse.add_argument("--into", type=Path, help="a JSON file of outcomes, continued if it is there")
    args = parse.parse_args()
    end = time.monotonic() + 60 * args.minutes
    os.chdir(ROOT)
    sys.path.remove(str(Path(__file__).parent))  # whose files have names of packages of tests
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    sys.dont_write_bytecode = True
    import pandas  # noqa: F401 - imported once, before the processes fork
    import pyarrow.parquet  # noqa: F401
    import pytest  # noqa: F401
    import scipy.optimize  # noqa: F401
    import torch

    torch.set_num_threads(1)
    every = [m for file in args.files for m in mutants(file, (ROOT / "src" / "plica" / file).read_text())]
    picked = random.Random(args.seed).sample(every, min(args.sample or len(every), len(every)))
    with tempfile.TemporaryDirectory() as folder:
        workspaces = [copy_of_package(Path(folder), f"{job}") for job in range(args.jobs)]
        recorder = baseline(workspaces[0], args.files, args.tests, ROOT / "build" / "mutants-lines", end)
        functions = import_package(workspaces[0] / "src")
        imported = workspaces[0] / "src" / "plica"
        quickest = min(recorder.seconds, key=recorder.seconds.__getitem__)
        if in_child(lambda: run_tests([quickest], [], stop=True), imported.parent, workspaces[0] / "log", 600)[1] != 0:
            sys.exit(f"In a fork of this process {quickest} fails: {(workspaces[0] / 'log').read_text()[-2000:]}")
        tests = digest(*test_files(args.tests))
        outcomes, free, cannot = Outcomes(args.into, tests), list(workspaces), equivalent()
        print(f"{len(every)} changes in {len(args.files)} files; {len(picked)} are tried", flush=True)

        def attempt(mutant: Mutant) -> str:
            if mutant.key in cannot:
                return "equivalent"
            outcome = outcomes.of(mutant)
            if outcome is None and time.monotonic() > end:
                return "not tried"
            if outcome is None:
                workspace = free.pop()
                outcome = try_one(mutant, recorder, workspace, imported, functions)
                free.append(workspace)
                outcomes.add(mutant, outcome)
            if outcome == "survived":
                print(f"{outcome}  line {mutant.line} of {mutant.key}", flush=True)
            return outcome

        with ThreadPoolExecutor(args.jobs) as pool:
            found = list(pool.map(attempt, picked))
    count = {name: found.count(name) for name in ("killed", "hung", "equivalent", "survived", "not tried")}
    noticed = count["killed"] + count["hung"]
    mattering = noticed + count["survived"]
    print(", ".join(f"{number} {name}" for name, number in count.items()))
    print(f"{noticed} of {mattering} that are not equivalent are noticed: {noticed / max(1, mattering):.1%}")


if __name__ == "__main__":
    main()
