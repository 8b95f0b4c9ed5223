"""The verdict on a finished run: findings in its samples, in checks.json (what `examine` found on each model) and in
audit.json (whether an audit agreed), where these files exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64

from plica.analysis.gaps import closed
from plica.models import prepare_inputs
from plica.runs import Run, Task
from plica.runs.check.json_files import Audit, Checks, read_object
from plica.runs.schema import AUDIT, CHECKS, SUMMARY
from plica.trust.examine import Model, examine
from plica.trust.findings import Finding, Severity, Verdict
from plica.trust.radius_checks import beyond_boundary
from plica.utils.files import write_json
from plica.utils.wilson import wilson

RUN_CHECKS = ("budget", "one class", "black box", "not finite", "accuracy", "few images", "not examined", "audit")
BLACK_BOX = ("square", "boundary", "hopskip", "random", "nes", "spsa")  # in names of methods that use only outputs
COLUMNS = ["id", "label", "prediction", "success", "distance", "status", "gradients"]
ENOUGH = 50  # gradients per image; a search that ends earlier because its budget is spent has hardly begun
WIDE = 0.4  # of a 95 % interval of a share of one half: from 30 % to 70 %, with 20 images


@dataclass(frozen=True)
class QuestionAnswers:
    """The results of all methods for one question about one model. Arrays have an entry per image, in the order of
    `ids`.

    Attributes:
        model: its name.
        question: as the tasks name it.
        kind: "min-radius" or "max-loss".
        aimed: there is a target class.
        ids: rows of the images in the data.
        label: their classes.
        distance: the least over all methods, inf where none found a point.
        wrong: the unperturbed image is misclassified.
        prediction: the class of the nearest point.
        limited: the budget ended the last method, and the answer is open: for max-loss the image is neither broken nor
            proved robust, for min-radius it is not wrong, and its radius not proved exact.
        gradients: the most that one method spent.
        failed: the model or the distance was not finite, or a method raised an error.
        black_box: the least distance over methods that use outputs alone.
        white_box: the least distance over methods that use gradients.
    """

    model: str
    question: str
    kind: str
    aimed: bool
    ids: Int64[np.ndarray, " b"]
    label: Int64[np.ndarray, " b"]
    distance: Float64[np.ndarray, " b"]
    wrong: Bool[np.ndarray, " b"]
    prediction: Int64[np.ndarray, " b"]
    limited: Bool[np.ndarray, " b"]
    gradients: Int64[np.ndarray, " b"]
    failed: Bool[np.ndarray, " b"]
    black_box: Float64[np.ndarray, " b"]
    white_box: Float64[np.ndarray, " b"]

    @property
    def name(self) -> str:
        return f"{self.model}, {self.question}"


def verdict(run: Run) -> dict[str, Any]:
    """The verdict on a run as a JSON object, as in summary.json: "verdict", "findings", "checks"."""
    return conclude(run).record()


def believed(run: Run) -> Verdict:
    """The verdict in the run's summary; computed now if there is none, as of a run that is unfinished."""
    record = run.summary.get("verdict")
    if isinstance(record, dict):
        return Verdict.read(record)
    concluded = conclude(run)
    return Verdict.of([*unfinished(run), *concluded.findings], concluded.checks)


def unfinished(run: Run) -> Iterator[Finding]:
    """Whether parts of the run are missing."""
    if not run.summary and "chunk" in (run.manifest.get("plan") or {}):
        yield Finding(
            "unfinished",
            Severity.RESERVATION,
            "The run is unfinished, so images, methods, questions or models are missing; the same command that began "
            "it goes on.",
        )


def conclude(run: Run, examined: Mapping[str, Any] | None = None) -> Verdict:
    """Findings in the answers of a run, in the checks of its models and in its audit. examined: the content of
    checks.json, where it is not to be read."""
    findings: list[Finding] = []
    questions = [*_questions(run)]
    findings += _budgets(questions)
    for answers in questions:
        findings += [*_one_class(answers), *_black_box(answers), *_not_finite(answers), *_chance(answers)]
    checks = [*RUN_CHECKS]
    examined = read_object(run.directory / CHECKS, Checks) if examined is None else examined
    for model in dict.fromkeys(task.model for task in run.tasks):
        if model in examined:
            on_model = Verdict.read(examined[model])
            drawn = [task.draws for task in run.tasks if task.model == model]
            findings += [_about(model, _with_draws(finding, drawn)) for finding in on_model.findings]
            checks += on_model.checks
        else:
            sentence = f"{model} was not examined; run plica doctor on this run."
            findings.append(Finding("not examined", Severity.RESERVATION, sentence))
    audit = read_object(run.directory / AUDIT, Audit)
    findings += [*_audit(audit), *_transfers(audit)]
    return Verdict.of(findings, checks)


def refresh(run: Run) -> None:
    """Compute the verdict again and write it into the run's summary.json, if there is one."""
    file = run.directory / SUMMARY
    if run.summary:
        write_json(file, run.summary | {"verdict": verdict(run)})


def check_model(run: Run, name: str, model: Model, images: int = 32, bounds=(0.0, 1.0), seed: int = 0) -> Verdict:
    """Examine a model of a run on the run's first images, and write the findings into checks.json.

    Raises:
        ValueError: the run has no images, or the model cannot take them.
    """
    verdict = examine_model(run, name, model, images, bounds, seed)
    checks = read_object(run.directory / CHECKS, Checks)
    write_json(run.directory / CHECKS, {**checks, name: verdict.record()})
    return verdict


def examine_model(run: Run, name: str, model: Model, images: int = 32, bounds=(0.0, 1.0), seed: int = 0) -> Verdict:
    """The same, without writing anything."""
    for ids, x, y in run.inputs():
        model, x, y = prepare_inputs(model, x, y)
        verdict = examine(model, x, y, bounds=bounds, images=images, seed=seed)
        findings = [*verdict.findings, *beyond_boundary(run, name, model, ids, x)]
        return Verdict.of(findings, [*verdict.checks, "beyond the boundary"])
    raise ValueError(f"{run.directory} contains no images; examine its models with `plica doctor --model --data`.")


def _with_draws(finding: Finding, drawn: list[int | None]) -> Finding:
    """The finding of random outputs as a note, if every task of the model was attacked with draws."""
    if finding.check != "random outputs" or None in drawn:
        return finding
    sentence = (
        f"The outputs of the model are random: the mean over {min(filter(None, drawn))} draws was attacked, "
        "and a point counts as misclassified if most of 100 fresh draws are."
    )
    return Finding(finding.check, Severity.NOTE, sentence, finding.share)


def _about(model: str, finding: Finding) -> Finding:
    return Finding(finding.check, finding.weight, f"{model}: {finding.sentence}", finding.share)


def _budgets(questions: list[QuestionAnswers]) -> Iterator[Finding]:
    """Answers that a larger budget may change: one finding on all questions with a small budget, one on the others."""
    open_ones = [(q, float(q.limited.mean()), _median_spent(q)) for q in questions if q.limited.any()]
    small = [(share, spent) for _, share, spent in open_ones if spent < ENOUGH and share > 0.05]
    if small:
        share = max(share for share, _ in small)
        yield Finding(
            "budget",
            Severity.RESERVATION,
            f"The budget is small: a method took at most {max(spent for _, spent in small):.0f} gradients per image "
            f"({_questions_of(small, questions)}). With fewer than {ENOUGH} nearer points are often missed; raise "
            "gradients.",
            share,
        )
    enough = [share for _, share, spent in open_ones if spent >= ENOUGH or share <= 0.05]
    if enough:
        yield Finding(
            "budget",
            Severity.NOTE,
            f"Searches used their budget up, as auto always does ({_questions_of(enough, questions)}): radii and "
            "accuracies under attack are upper bounds.",
            max(enough),
        )


def _median_spent(question: QuestionAnswers) -> float:
    return float(np.median(question.gradients[question.limited]))


def _questions_of(some: Sequence[object], questions: Sequence[object]) -> str:
    return "in every question" if len(some) == len(questions) else f"in {len(some)} of {len(questions)} questions"


def _one_class(answers: QuestionAnswers) -> Iterator[Finding]:
    """Nearly all points are predicted as the same class, often one that the preprocessing favours."""
    broken = np.isfinite(answers.distance) & ~answers.wrong
    labels = len(np.unique(answers.label[broken]))
    if answers.aimed or broken.sum() < 20 or labels < 4:
        return
    classes, counts = np.unique(answers.prediction[broken], return_counts=True)
    top = int(classes[counts.argmax()])
    others = broken & (answers.label != top)
    share = float((answers.prediction[others] == top).mean()) if others.any() else 0.0
    if share >= 0.9:
        yield Finding(
            "one class",
            Severity.RESERVATION,
            f"{answers.name}: {share:.0%} of the broken images are predicted as class {top}; the number is the "
            "distance to that class; look at the model's output for it.",
            share,
        )


def _black_box(answers: QuestionAnswers) -> Iterator[Finding]:
    """Methods without gradients find points that methods with gradients miss: the gradient is masked."""
    if np.isinf(answers.black_box).all() or np.isinf(answers.white_box).all():
        return
    beaten = ~answers.wrong & np.isfinite(answers.black_box)
    beaten &= (
        np.isinf(answers.white_box) if answers.kind == "max-loss" else answers.black_box < 0.98 * answers.white_box
    )
    share = float(beaten.mean())
    if beaten.sum() > 2 and share > 0.03:
        yield Finding(
            "black box",
            Severity.FATAL if share >= 0.1 else Severity.RESERVATION,
            f"{answers.name}: on {share:.0%} of the images a method that sees outputs alone beats every method with a "
            "gradient: the gradient is masked.",
            share,
        )


def _not_finite(answers: QuestionAnswers) -> Iterator[Finding]:
    """Images without a valid answer."""
    share = float(answers.failed.mean())
    if share:
        yield Finding(
            "not finite",
            Severity.FATAL if share > 0.5 else Severity.RESERVATION,
            f"{answers.name}: for {share:.0%} of the images the model or the distance gave NaN or infinity, or failed, "
            "and they count as not broken.",
            share,
        )


def _chance(answers: QuestionAnswers) -> Iterator[Finding]:
    """Accuracy at chance, and samples that are too small."""
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
        low, high = (float(end) for end in wilson(np.array(0.5), count))
        yield Finding(
            "few images",
            Severity.RESERVATION if high - low > WIDE else Severity.NOTE,
            f"{'1 image is' if count == 1 else f'{count} images are'} few: where half of them are broken, {low:.0%} to "
            f"{high:.0%} of all may be; use more.",
        )


def _audit(record: Mapping[str, Any]) -> Iterator[Finding]:
    if record and not record.get("agrees"):
        kinds = [kind for task in record.get("tasks", []) for kind in task.get("differences", {})]
        named = ", ".join(dict.fromkeys(map(str, kinds)))
        yield Finding("audit", Severity.FATAL, f"An audit measured other values than are stored ({named}).")


def _transfers(record: Mapping[str, Any]) -> Iterator[Finding]:
    """Points found on other models that are nearer than those found on the model itself, from the audit."""
    for pair in record.get("transfers", []):
        share = pair["beaten"] / max(pair["images"], 1)
        if pair["beaten"] > 2 and share > 0.03:
            yield Finding(
                "transfer",
                Severity.FATAL if share >= 0.1 else Severity.RESERVATION,
                f"{pair['model']}, {pair['question']}: on {share:.0%} of the images a point found on {pair['origin']} "
                "is better than what was found on the model itself; attack it longer.",
                share,
            )


def _questions(run: Run) -> Iterator[QuestionAnswers]:
    """One record per model and question that has rows."""
    for key in dict.fromkeys((task.model, task.question) for task in run.tasks):
        tasks = [task for task in run.tasks if (task.model, task.question) == key]
        tables = [run.rows(task, COLUMNS) for task in tasks]
        if any(len(table) for table in tables):
            yield _answers(tasks, tables, [run.lower(task) for task in tasks])


def _answers(tasks: list[Task], tables: list[pa.Table], lowers: list[pa.Table | None]) -> QuestionAnswers:
    ids = np.unique(np.concatenate([table["id"].to_numpy() for table in tables]))
    size = len(ids)
    least, black_box, white_box = (np.full(size, np.inf) for _ in range(3))
    label, prediction, gradients = (np.zeros(size, dtype=np.int64) for _ in range(3))
    wrong, limited, failed = (np.zeros(size, dtype=bool) for _ in range(3))
    for task, table in zip(tasks, tables, strict=True):
        rows = np.searchsorted(ids, table["id"].to_numpy())
        status = np.array(table["status"].to_pylist(), dtype=str)
        ok = table["success"].to_numpy(zero_copy_only=False).astype(bool)
        d = np.where(ok, table["distance"].to_numpy().astype(float), np.inf)
        nearer = d < least[rows]
        label[rows] = table["label"].to_numpy()
        prediction[rows[nearer]] = table["prediction"].to_numpy()[nearer]
        gradients[rows] = np.maximum(gradients[rows], table["gradients"].to_numpy())
        wrong[rows] |= ok & (d == 0)
        failed[rows] |= np.isin(status, ("NOT_FINITE", "FAILED"))
        limited[rows] = status == "BUDGET"  # of the last method that attacked the image
        least[rows] = np.minimum(least[rows], d)
        nearest = black_box if any(word in task.method for word in BLACK_BOX) else white_box
        nearest[rows] = np.minimum(nearest[rows], d)
    lower = np.zeros(size)
    for bounds in filter(None, lowers):
        rows = np.searchsorted(ids, bounds["id"].to_numpy())
        lower[rows] = np.fmax(lower[rows], bounds["lower"].to_numpy().astype(float))
    # for max-loss, lower is the radius if it is proved, else 0
    limited &= np.isinf(least) & (lower == 0) if tasks[0].kind == "max-loss" else ~(wrong | closed(lower, least))
    return QuestionAnswers(
        model=tasks[0].model,
        question=tasks[0].question,
        kind=tasks[0].kind,
        aimed=tasks[0].target is not None,
        ids=ids,
        label=label,
        distance=least,
        wrong=wrong,
        prediction=prediction,
        limited=limited,
        gradients=gradients,
        failed=failed,
        black_box=black_box,
        white_box=white_box,
    )
