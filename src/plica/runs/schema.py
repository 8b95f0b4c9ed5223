"""The format of a run directory: its files, and every column, tensor and key in them.

Writers, reader and the reference page take names, types and meanings from here.

    DIR/manifest.json                  of `plica evaluate`: plan, hashes, versions, tasks
    DIR/inputs/00000.safetensors       the images of a chunk
    DIR/parts/TASK/00000.parquet       the samples of a chunk and a task, one row per image
    DIR/parts/TASK/00000.safetensors   their points
    DIR/parts/TASK/leaves-00000.parquet    what proves their lower bounds
    DIR/samples.parquet                of `plica radius` and `plica attack`: one task, no chunks
    DIR/x_adv.safetensors              its points
    DIR/inputs.safetensors             its images
    DIR/summary.json, bounds.safetensors, checks.json, audit.json, perturbations.png
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

FORMAT = 1  # version of the format

MANIFEST = "manifest.json"
SUMMARY = "summary.json"
BOUNDS = "bounds.safetensors"
CHECKS = "checks.json"
AUDIT = "audit.json"
SAMPLES = "samples.parquet"
POINTS = "x_adv.safetensors"
INPUTS = "inputs.safetensors"
PICTURE = "perturbations.png"
INNER, NEURON = -1, -2  # in the column `rival` of LEAVES
NOTES = b"notes"  # key in the schema of a part and in the header of a chunk's images: sentences about failures, as JSON


@dataclass(frozen=True)
class Column:
    """A column of a table, a tensor of a safetensors file or a key of a JSON file.

    Attributes:
        name: as in the file.
        type: Arrow's name of the type of a column; shape and type of a tensor; JSON's name of a key's type.
        meaning: one sentence, with the unit and what a missing value says.
    """

    name: str
    type: str
    meaning: str


MEASURED = (
    Column("id", "int64", "row of the image in the data, counted from 0"),
    Column("label", "int64", "the class in the data; -1 if y is not a class"),
    Column("prediction", "int64", "the class of x_adv; -1 if the method failed or the goal has no classes"),
    Column(
        "success", "bool", "x_adv is misclassified (or reaches the goal), within the bounds and the radius of max-loss"
    ),
    Column(
        "distance",
        "double",
        "metric(x, x_adv); 0 if the image itself is misclassified, 1e-38 where the metric is 0 at another point, inf "
        "if success is false",
    ),
    Column("margin", "double", "largest logit of another class minus that of the label, at x_adv; > 0: misclassified"),
    Column("violation", "double", "largest amount by which x_adv violates a constraint; 0 if success is true"),
    Column("stationarity", "double", "the solver's measure of stationarity at its end; nan for methods without one"),
    Column("status", "string", "why the attack on the image ended: the name of a plica.Status"),
    Column("gradients", "int64", "runs of the model on the image, forward and backward"),
    Column("forwards", "int64", "runs of the model on the image, forward alone"),
    Column("seconds", "double", "the image's share of the wall time, in seconds"),
    Column("share", "double", "the share of the judge's 100 draws that reach the goal at x_adv; nan without draws"),
)
CERTIFIED = (
    Column(
        "lower",
        "double",
        "no misclassified input lies nearer; 0 if nothing is proved, inf if none exists within the bounds",
    ),
    Column("closed", "bool", "whether the smallest distance of any method exceeds lower by at most a thousandth"),
    Column(
        "arithmetic",
        "string",
        "for which lower holds: real, the network in real arithmetic; executed, as run in float32",
    ),
    Column(
        "lower_status",
        "string",
        "why the search for lower ended: the name of a plica.certify.CertificateStatus; runs of older versions lack it",
    ),
)  # of the last method of a question whose plan says `certify`
TARGET_CLASS = Column(
    "target_class", "int64", "the target class of the image; only where each image has its own (`targets` in the plan)"
)
LEAVES = (
    Column("id", "int64", "row of the image in the data; its first row here has the slopes of intermediate bounds"),
    Column(
        "rival",
        "int64",
        "the class that is excluded in this part of the ball; -1 in an image's first row; -2: the row is one of those "
        "that bound a neuron inside the network, which the first split names (sign 1: from below, -1: from above)",
    ),
    Column("activation", "list<int32>", "for each split: the activation, counted from 0 in the order of computation"),
    Column("neuron", "list<int32>", "for each split: the index into the activation's flattened input for one image"),
    Column("sign", "list<int8>", "for each split: 1 if this input is >= 0, -1 if it is <= 0"),
    Column("multiplier", "list<float>", "for each split: the multiplier beta >= 0"),
    Column("slopes", "binary", "255 times the parameter in [0, 1] of every line, one byte each, by activation"),
)
CONSTANT = (
    Column("model", "string", "the model's name in the plan, or its specification"),
    Column("question", "string", "kind, distance, radius and loss in one text"),
    Column("kind", "string", "min-radius or max-loss"),
    Column("metric", "string", "the distance; theta: that of the perturbation's parameters"),
    Column("radius", "double", "the radius of max-loss in the metric's unit; null for min-radius"),
    Column("loss", "string", "the loss of max-loss; null for min-radius"),
    Column("method", "string", "the method; with its budget or seed if a question has the method several times"),
    Column("through", "string", "the perturbation T of x_adv = T(x, theta); null for x + delta"),
    Column("goal", "string", "the goal that counts as a success (plica.goals); null for misclassification"),
    Column("draws", "int64", "number of draws whose mean was attacked (random models); null without draws"),
    Column("levels", "int64", "number of levels of the grid on which the points lie; null without a grid"),
    Column(
        "target",
        "string",
        "the target class, or the file with one for each image and the start of a hash of its classes; null for any",
    ),
)  # the same in all rows of a task
TASK = Column("task", "string", "the task's name, and that of its folder in parts/")
IMAGES = (
    Column("x", "(b, *image) uint8 or float", "the images; uint8 if x = uint8 / 255 exactly"),
    Column("y", "(b,) int64, or (b, ...)", "the labels, or the values that the goal compares with"),
    Column("targets", "(b,) int64", "the target class of each image; absent if any other class is a success"),
    Column("id", "(b,) int64", "rows in the data; 0, 1, 2, ... if it is absent"),
)
MOVED = (
    Column("x_adv", "(b, *image) float", "the points"),
    Column("id", "(b,) int64", "rows in the data; for other images x_adv is the image itself (Run.points adds it)"),
    Column("theta", "(b, k) float", "parameters of a perturbation T: x_adv = T(x, theta), clamped into the bounds"),
)
BOX = (
    Column("low", "() or (*image) float", "the least value of each feature"),
    Column("high", "() or (*image) float", "the largest value of each feature"),
    Column("mask", "(*image) bool", "true for features that may change; absent if all may"),
)
MANIFEST_KEYS = (
    Column("format", "number", f"{FORMAT}"),
    Column("plan", "object", "the plan with all its defaults; identity: the part that the results depend on"),
    Column("hashes", "object", "SHA-256 of the plan's identity, of each model and of the data"),
    Column("answers", "object", "sums of each model's and distance's values on the first images, compared on resuming"),
    Column("versions", "object", "of plica, torch, numpy and Python; the system; the number of threads"),
    Column("data", "object", "n: images in the run; shape: of one image; classes: their names, or null"),
    Column("tasks", "array", "an object per task: name, the constant columns, gradients per image"),
    Column("shard", "string", "i/N if the run is one of N parts of a plan, else null"),
    Column("merged", "array", "of `plica merge`: shard and versions of each part"),
)
SUMMARY_KEYS = (
    Column("format", "number", f"{FORMAT}"),
    Column("complete", "boolean", "whether every chunk of every task is finished"),
    Column("questions", "array", "an object per model and question: accuracies, radii, the results of each method"),
    Column("notes", "array", "sentences: images that failed, batches that were halved"),
    Column("verdict", "object", "verdict, findings and checks: how far the numbers can be believed"),
)
SINGLE_KEYS = (
    Column("arguments", "object", "the options of the command; with targets, target as in samples.parquet"),
    Column("versions", "object", "as in manifest.json"),
    Column("dtype", "text", "of the model and the points, as float32"),
    Column("images", "number", "number of attacked images"),
    Column("accuracy", "number", "share of images that are classified correctly without a perturbation"),
    Column("robust_accuracy", "number", "share of images without a point within the radius; `plica attack` only"),
    Column(
        "radius", "object", "quantiles of the distance: the smallest within which that share is misclassified, or null"
    ),
    Column("status", "object", "per status: number of images, and what the status means"),
    Column("gradients", "number", "sum over all images"),
    Column("forwards", "number", "sum over all images"),
    Column("seconds", "number", "wall time"),
    Column("classes", "array", "names of the classes, if the data have names"),
    Column(
        "verdict", "object", "as in the summary.json of an evaluation; after `plica doctor RUN` or `plica audit RUN`"
    ),
)
CHECKS_KEYS = (Column("MODEL", "object", "for each model of the run, by its name: verdict, findings and checks"),)
AUDIT_KEYS = (
    Column("agrees", "boolean", "whether every result was confirmed"),
    Column("tasks", "array", "an object per task: counts of results, confirmed successes, and differences by kind"),
    Column("transfers", "array", "an object per question and pair of models: images that the other's points break"),
)


@dataclass(frozen=True)
class File:
    """A kind of file in a run directory: its path (TASK and 00000 stand for any task and chunk), and its content."""

    path: str
    meaning: str
    columns: tuple[Column, ...] = ()


EVALUATION = (
    File(MANIFEST, "identifies the run; written first", MANIFEST_KEYS),
    File("inputs/00000.safetensors", "the images of a chunk", IMAGES),
    File("parts/TASK/00000.parquet", "a row per image of a chunk; written last, when the part is complete",
         (*MEASURED, TARGET_CLASS, *CERTIFIED, *CONSTANT)),
    File("parts/TASK/00000.safetensors", "the points of a chunk that are not the images themselves", MOVED),
    File("parts/TASK/leaves-00000.parquet", "proofs of the lower bounds of a chunk (`certify` in the plan)", LEAVES),
    File(BOUNDS, "bounds and mask of the features, if they are not [0, 1] for all", BOX),
    File(SUMMARY, "accuracies, radii, verdict", SUMMARY_KEYS),
    File(CHECKS, "findings of the checks of each model", CHECKS_KEYS),
    File(AUDIT, "results of `plica audit`", AUDIT_KEYS),
)  # fmt: skip
SINGLE = (
    File(SAMPLES, "a row per image", MEASURED),
    File(POINTS, "the points of all images", MOVED),
    File(INPUTS, "the images", IMAGES),
    File(BOUNDS, "bounds and mask of the features, if they are not [0, 1] for all", BOX),
    File(PICTURE, "a figure of some perturbations"),
    File(SUMMARY, "written last, when the run is complete", SINGLE_KEYS),
    File(AUDIT, "results of `plica audit`", AUDIT_KEYS),
)


def names(columns: Iterable[Column]) -> list[str]:
    """The names of columns, in order."""
    return [column.name for column in columns]


def arrow_schema(columns: Iterable[Column]) -> pa.Schema:
    """The Arrow schema of a table with these columns."""
    return pa.schema([(column.name, _arrow_type(column.type)) for column in columns])


def _arrow_type(text: str) -> pa.DataType:
    inner = text.removeprefix("list<").removesuffix(">")
    return pa.type_for_alias(inner) if inner == text else pa.list_(pa.type_for_alias(inner))


def part_file(directory: Path, task: str, chunk: int) -> Path:
    """The samples of a chunk; its points have the same path with the suffix .safetensors."""
    return directory / "parts" / task / f"{chunk:05d}.parquet"


def leaves_file(table: Path) -> Path:
    """The leaves of a part, by the file of its samples."""
    return table.with_name(f"leaves-{table.name}")


def inputs_file(directory: Path, chunk: int) -> Path:
    """The images of a chunk."""
    return directory / "inputs" / f"{chunk:05d}.safetensors"
