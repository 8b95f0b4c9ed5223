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
class QuestionAnswers:
    """All answers to one question about one model. Arrays have an entry per image, in the order of `ids`.

    Attributes:
        model: its name.
        question: as the tasks name it.
        kind: "min-radius" or "max-loss".
        ids: rows of the images in the data.
        label: their classes.
        distance: the least that any method found, inf where none was found.
        wrong: misclassified as it is.
        taken: the class of the nearest point.
        limited: the last method stopped at its limit, and the image is not broken (min-radius: not wrong as it is).
        gradients: of all methods together.
        lost: the model or the distance was not finite, or a method failed.
        blind: the least distance that methods without a gradient found.
        seeing: the least distance that methods with a gradient found.
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
    blind: Float64[np.ndarray, " b"]
    seeing: Float64[np.ndarray, " b"]

    @property
    def name(self) -> str:
        return f"{self.model}, {self.question}"


def verdict(run: Run) -> dict[str, Any]:
    """The verdict on a run as summary.json keeps it: "verdict", "findings", "checks"."""
    return conclude(run).record()


def believed(run: Run) -> Verdict:
    """The verdict that the run's summary holds; where it has none, that of now."""
    record = run.summary.get("verdict")
    return Verdict.read(record) if isinstance(record, dict) else conclude(run)


def conclude(run: Run) -> Verdict:
    """Findings in the answers of a run, in the checks of its models and in its audit."""
    findings: list[Finding] = []
    questions = [*_questions(run)]
    findings += _limits(questions)
    for answers in questions:
        findings += [*_one_class(answers), *_black_box(answers), *_broken(answers), *_chance(answers)]
    checks = [*CHECKED]
    examined = read_object(run.directory / CHECKS)
    for model in dict.fromkeys(task.model for task in run.tasks):
        if model in examined:
            findings += [_of(model, Finding.read(record)) for record in examined[model]["findings"]]
            checks += examined[model]["checks"]
        else:
            sentence = f"{model} was not examined; run `plica doctor` on the run."
            findings.append(Finding("not examined", Severity.RESERVATION, sentence))
    audit = read_object(run.directory / AUDIT)
    findings += [*_audit(audit), *_transfers(audit)]
    return Verdict.of(findings, checks)


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
        verdict = examine(model, *prepare_inputs(model, x, y), bounds=bounds, images=images, seed=seed)
        former = read_object(run.directory / CHECKS)
        write_json(run.directory / CHECKS, {**former, name: verdict.record()})
        return verdict
    raise ValueError(f"{run.directory} has not kept its images; examine its models with plica doctor --model --data.")


def _of(model: str, finding: Finding) -> Finding:
    return Finding(finding.check, finding.weight, f"{model}: {finding.sentence}", finding.share)


def _limits(questions: list[QuestionAnswers]) -> Iterator[Finding]:
    """Searches that the budget ended: what they did not find may be there. Small budgets singly, others together."""
    long = []
    for answers in questions:
        if not answers.limited.any():
            continue
        share, spent = float(answers.limited.mean()), float(np.median(answers.gradients[answers.limited]))
        if spent >= ENOUGH or share <= 0.05:
            long.append(share)
            continue
        yield Finding(
            "limit",
            Severity.RESERVATION,
            f"{answers.name}: for {share:.0%} of the images the search stopped at its limit, after {spent:.0f} "
            "gradients; raise gradients.",
            share,
        )
    if long:
        yield Finding(
            "limit",
            Severity.NOTE,
            f"In {len(long)} of {len(questions)} questions searches stopped at their limit, for up to {max(long):.0%} "
            "of the images: their radii are upper bounds, and so is the accuracy.",
            max(long),
        )


def _one_class(answers: QuestionAnswers) -> Iterator[Finding]:
    """Nearly all perturbed images taken for the same class: often a class that the preprocessing favours."""
    broken = np.isfinite(answers.distance) & ~answers.wrong
    labels = len(np.unique(answers.label[broken]))
    if broken.sum() < 20 or labels < 4:
        return
    classes, counts = np.unique(answers.taken[broken], return_counts=True)
    top = int(classes[counts.argmax()])
    others = broken & (answers.label != top)
    share = float((answers.taken[others] == top).mean()) if others.any() else 0.0
    if share >= 0.9:
        yield Finding(
            "one class",
            Severity.RESERVATION,
            f"{answers.name}: {share:.0%} of the images that were broken are taken for class {top}; the number says "
            "how far that class is, look at the model's output for it.",
            share,
        )


def _black_box(answers: QuestionAnswers) -> Iterator[Finding]:
    """Methods that see outputs alone find what those with a gradient do not: the gradient is masked."""
    if np.isinf(answers.blind).all() or np.isinf(answers.seeing).all():
        return
    beaten = ~answers.wrong & np.isfinite(answers.blind)
    beaten &= np.isinf(answers.seeing) if answers.kind == "max-loss" else answers.blind < 0.98 * answers.seeing
    share = float(beaten.mean())
    if beaten.sum() > 2 and share > 0.03:
        yield Finding(
            "black box",
            Severity.FATAL if share >= 0.1 else Severity.RESERVATION,
            f"{answers.name}: on {share:.0%} of the images a method that sees outputs alone beats every method with a "
            "gradient: the gradient is masked.",
            share,
        )


def _broken(answers: QuestionAnswers) -> Iterator[Finding]:
    share = float(answers.lost.mean())
    if share:
        yield Finding(
            "not finite",
            Severity.FATAL if share > 0.5 else Severity.RESERVATION,
            f"{answers.name}: for {share:.0%} of the images the model or the distance gave NaN or infinity, or failed, "
            "and they count as withstanding.",
            share,
        )


def _chance(answers: QuestionAnswers) -> Iterator[Finding]:
    """Accuracy at chance, and samples too small to say much."""
    count, right = len(answers.ids), int((~answers.wrong).sum())
    chance = 1 / max(len(np.unique(answers.label)), 2)
    if count >= 30 and right / count < chance + 2 * np.sqrt(chance * (1 - chance) / count):
        yield Finding(
            "accuracy",
            Severity.FATAL,
            f"{answers.model} is right on {right / count:.0%} of {count} images, which is chance; look at the labels, "
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


def _questions(run: Run) -> Iterator[QuestionAnswers]:
    """For every model and question that has answers yet."""
    for key in dict.fromkeys((task.model, task.question) for task in run.tasks):
        tasks = [task for task in run.tasks if (task.model, task.question) == key]
        tables = [run.rows(task) for task in tasks]
        if any(len(table) for table in tables):
            yield _answers(tasks, tables)


def _answers(tasks: list[Task], tables: list[pa.Table]) -> QuestionAnswers:
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
    return QuestionAnswers(
        model=tasks[0].model,
        question=tasks[0].question,
        kind=tasks[0].kind,
        ids=ids,
        label=label,
        distance=least,
        wrong=wrong,
        taken=taken,
        limited=limited,
        gradients=gradients,
        lost=lost,
        blind=blind,
        seeing=seeing,
    )
