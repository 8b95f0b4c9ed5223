"""plica.trust.verdict: what the answers of a finished run say about its own numbers.

Beside the samples two files of the run are read, where they are: checks.json, what `examine` found on each model, and
audit.json, whether an audit agreed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64

from plica.models import prepare_inputs
from plica.runs import Run, Task
from plica.runs.read import read_object
from plica.runs.schema import AUDIT, CHECKS, SUMMARY
from plica.trust.examine import Model, examine
from plica.trust.findings import Finding, Severity, Verdict
from plica.utils.files import write_json

CHECKED = ("limit", "one class", "black box", "not finite", "accuracy", "few images", "not examined", "audit")
BLIND = ("square", "boundary", "hopskip", "random", "nes", "spsa")  # methods that see outputs alone, by their names
ENOUGH = 50  # gradients per image, below which a search that stopped at its limit has hardly begun


@dataclass(frozen=True)
class Group:
    """All answers to one question about one model. Arrays have an entry per image, in the order of `ids`.

    distance: the least that any method found, inf where none was; wrong: misclassified as it is; taken: the class of
    the nearest point. limited: no answer (min-radius: no last one), as the last method stopped at its limit; lost: NaN;
    gradients: of all methods.
    """

    model: str
    question: str
    kind: str
    ids: Int64[np.ndarray, " b"]
    label: Int64[np.ndarray, " b"]
    distance: Float64[np.ndarray, " b"]
    wrong: Bool[np.ndarray, " b"]
    taken: Int64[np.ndarray, " b"]
    limited: Bool[np.ndarray, " b"]
    gradients: Int64[np.ndarray, " b"]
    lost: Bool[np.ndarray, " b"]
    blind: Float64[np.ndarray, " b"]  # the least distance of methods without a gradient
    seeing: Float64[np.ndarray, " b"]  # and of the others

    @property
    def name(self) -> str:
        return f"{self.model}, {self.question}"


def verdict(run: Run) -> dict[str, Any]:
    """The verdict on a run as summary.json keeps it: "verdict", "findings", "checks"."""
    return conclude(run).record()


def believed(run: Run) -> Verdict:
    """The verdict that the run's summary holds; where it has none, that of now."""
    held = run.summary.get("verdict")
    return Verdict.read(held) if isinstance(held, dict) else conclude(run)


def conclude(run: Run) -> Verdict:
    """Findings in the answers of a run, in the checks of its models and in its audit."""
    found: list[Finding] = []
    groups = [*_groups(run)]
    found += _limits(groups)
    for group in groups:
        found += [*_one_class(group), *_black_box(group), *_broken(group), *_chance(group)]
    checks = [*CHECKED]
    examined = read_object(run.directory / CHECKS)
    for model in dict.fromkeys(task.model for task in run.tasks):
        if model in examined:
            found += [_of(model, Finding.read(record)) for record in examined[model]["findings"]]
            checks += examined[model]["checks"]
        else:
            said = f"{model} was not examined; run `plica doctor` on the run."
            found.append(Finding("not examined", Severity.RESERVATION, said))
    audited = read_object(run.directory / AUDIT)
    found += [*_audit(audited), *_transfers(audited)]
    return Verdict.of(found, checks)


def refresh(run: Run) -> None:
    """Put the verdict of now into the run's summary.json, where there is one."""
    file = run.directory / SUMMARY
    if run.summary:
        write_json(file, run.summary | {"verdict": verdict(run)})


def check_model(run: Run, name: str, model: Model, images: int = 32, bounds=(0.0, 1.0), seed: int = 0) -> Verdict:
    """Examine a model of a run on the run's first images; what is found is kept in checks.json beside it.

    Raises:
        ValueError: the run has not kept its images, or the model cannot take them.
    """
    for _, x, y in run.inputs():
        found = examine(model, *prepare_inputs(model, x, y), bounds=bounds, images=images, seed=seed)
        held = read_object(run.directory / CHECKS)
        write_json(run.directory / CHECKS, {**held, name: found.record()})
        return found
    raise ValueError(f"{run.directory} has not kept its images; examine its models with plica doctor --model --data.")


def _of(model: str, finding: Finding) -> Finding:
    return Finding(finding.check, finding.weight, f"{model}: {finding.sentence}", finding.share)


def _limits(groups: list[Group]) -> Iterator[Finding]:
    """Searches that the budget ended: what they did not find may be there. Small budgets singly, others together."""
    long = []
    for group in groups:
        if not group.limited.any():
            continue
        share, spent = float(group.limited.mean()), float(np.median(group.gradients[group.limited]))
        if spent >= ENOUGH or share <= 0.05:
            long.append(share)
            continue
        yield Finding(
            "limit",
            Severity.RESERVATION,
            f"{group.name}: for {share:.0%} of the images the search stopped at its limit, after {spent:.0f} "
            "gradients; raise gradients.",
            share,
        )
    if long:
        yield Finding(
            "limit",
            Severity.NOTE,
            f"In {len(long)} of {len(groups)} questions searches stopped at their limit, for up to {max(long):.0%} of "
            "the images: their radii are upper bounds, and so is the accuracy.",
            max(long),
        )


def _one_class(group: Group) -> Iterator[Finding]:
    """Nearly all perturbed images taken for the same class: often a class that the preprocessing favours."""
    found = np.isfinite(group.distance) & ~group.wrong
    labels = len(np.unique(group.label[found]))
    if found.sum() < 20 or labels < 4:
        return
    classes, counts = np.unique(group.taken[found], return_counts=True)
    top = int(classes[counts.argmax()])
    others = found & (group.label != top)
    share = float((group.taken[others] == top).mean()) if others.any() else 0.0
    if share >= 0.9:
        yield Finding(
            "one class",
            Severity.RESERVATION,
            f"{group.name}: {share:.0%} of the images that were broken are taken for class {top}; the number says how "
            "far that class is, look at the model's output for it.",
            share,
        )


def _black_box(group: Group) -> Iterator[Finding]:
    """Methods that see outputs alone find what those with a gradient do not: the gradient is masked."""
    if np.isinf(group.blind).all() or np.isinf(group.seeing).all():
        return
    beaten = ~group.wrong & np.isfinite(group.blind)
    beaten &= np.isinf(group.seeing) if group.kind == "max-loss" else group.blind < 0.98 * group.seeing
    share = float(beaten.mean())
    if beaten.sum() > 2 and share > 0.03:
        yield Finding(
            "black box",
            Severity.FATAL if share >= 0.1 else Severity.RESERVATION,
            f"{group.name}: on {share:.0%} of the images a method that sees outputs alone beats every method with a "
            "gradient: the gradient is masked.",
            share,
        )


def _broken(group: Group) -> Iterator[Finding]:
    share = float(group.lost.mean())
    if share:
        yield Finding(
            "not finite",
            Severity.FATAL if share > 0.5 else Severity.RESERVATION,
            f"{group.name}: for {share:.0%} of the images the model or the distance gave NaN or infinity, or failed, "
            "and they count as withstanding.",
            share,
        )


def _chance(group: Group) -> Iterator[Finding]:
    """Accuracy at chance, and samples too small to say much."""
    count, right = len(group.ids), int((~group.wrong).sum())
    chance = 1 / max(len(np.unique(group.label)), 2)
    if count >= 30 and right / count < chance + 2 * np.sqrt(chance * (1 - chance) / count):
        yield Finding(
            "accuracy",
            Severity.FATAL,
            f"{group.model} is right on {right / count:.0%} of {count} images, which is chance; look at the labels, "
            "the normalisation and the weights.",
        )
    if count < 100:
        half = 1.96 * np.sqrt(0.25 / count)
        yield Finding(
            "few images", Severity.NOTE, f"{count} images: a share of them is known to +- {half:.0%} at best."
        )


def _audit(record: Mapping[str, Any]) -> Iterator[Finding]:
    if record and not record.get("agrees"):
        kinds = [kind for task in record.get("tasks", []) for kind in task.get("differences", {})]
        named = ", ".join(dict.fromkeys(map(str, kinds)))
        yield Finding("audit", Severity.FATAL, f"An audit measured other answers than are stored ({named}).")


def _transfers(record: Mapping[str, Any]) -> Iterator[Finding]:
    """Points of other models that beat a model's own, as the audit found them."""
    for pair in record.get("transfers", []):
        share = pair["beaten"] / max(pair["images"], 1)
        if pair["beaten"] > 2 and share > 0.03:
            yield Finding(
                "transfer",
                Severity.FATAL if share >= 0.1 else Severity.RESERVATION,
                f"{pair['model']}, {pair['question']}: on {share:.0%} of the images a point found on {pair['origin']} "
                "beats what was found on the model itself.",
                share,
            )


def _groups(run: Run) -> Iterator[Group]:
    asked = dict.fromkeys((task.model, task.question) for task in run.tasks)
    for key in asked:
        tasks = [task for task in run.tasks if (task.model, task.question) == key]
        tables = [run.rows(task) for task in tasks]
        if any(len(table) for table in tables):
            yield _group(tasks, tables)


def _group(tasks: list[Task], tables: list[pa.Table]) -> Group:
    ids = np.unique(np.concatenate([table["id"].to_numpy() for table in tables]))
    size = len(ids)
    least, blind, seeing = (np.full(size, np.inf) for _ in range(3))
    label, taken, gradients = (np.zeros(size, dtype=np.int64) for _ in range(3))
    wrong, limited, lost = (np.zeros(size, dtype=bool) for _ in range(3))
    for task, table in zip(tasks, tables, strict=True):
        at = np.searchsorted(ids, table["id"].to_numpy())
        status = np.array(table["status"].to_pylist(), dtype=str)
        ok = table["success"].to_numpy(zero_copy_only=False).astype(bool)
        d = np.where(ok, table["distance"].to_numpy().astype(float), np.inf)
        nearer = d < least[at]
        label[at] = table["label"].to_numpy()
        taken[at[nearer]] = table["prediction"].to_numpy()[nearer]
        gradients[at] += table["gradients"].to_numpy()
        wrong[at] |= ok & (d == 0)
        lost[at] |= np.isin(status, ("NOT_FINITE", "FAILED"))
        limited[at] = status == "BUDGET"  # of the last method that was asked
        least[at] = np.minimum(least[at], d)
        side = blind if any(word in task.method for word in BLIND) else seeing
        side[at] = np.minimum(side[at], d)
    limited &= np.isinf(least) if tasks[0].kind == "max-loss" else ~wrong
    first = tasks[0]
    return Group(first.model, first.question, first.kind, ids, label, least, wrong, taken, limited, gradients, lost,
                 blind, seeing)  # fmt: skip
