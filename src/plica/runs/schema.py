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
NOTES = b"notes"  # key in the schema of a part and in the header of a chunk's images: what went wrong, as JSON


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
    Column("label", "int64", "the class that the data give; -1 where y is something else"),
    Column("prediction", "int64", "the class of x_adv; -1 where the method failed, or the goal knows no classes"),
    Column(
        "success", "bool", "misclassified, or the goal reached; inside the bounds and, for max-loss, within the radius"
    ),
    Column(
        "distance", "double", "metric(x, x_adv); 0 for an image misclassified unperturbed, inf where success is false"
    ),
    Column("margin", "double", "largest logit of another class minus that of the label, at x_adv; > 0: misclassified"),
    Column("violation", "double", "largest amount by which x_adv misses a constraint; 0 where success is true"),
    Column("stationarity", "double", "the solver's measure where it stopped; nan for methods that have none"),
    Column("status", "string", "why the attack on the image ended: the name of a plica.Status"),
    Column("gradients", "int64", "runs of the model on the image, forward and backward"),
    Column("forwards", "int64", "runs of the model on the image, forward alone"),
    Column("seconds", "double", "share of the wall time"),
    Column("share", "double", "of the judge's 100 draws, those that reach the goal at x_adv; nan without draws"),
)
CERTIFIED = (
    Column(
        "lower",
        "double",
        "no misclassified input lies nearer; 0 where nothing is proved, inf where nowhere in the bounds",
    ),
    Column("closed", "bool", "whether the least distance that any method found exceeds lower by at most a thousandth"),
    Column("arithmetic", "string", "of what lower holds: real, the network in real arithmetic"),
)  # of the last method of a question whose plan says `certify`
LEAVES = (
    Column("id", "int64", "row of the image in the data; its first row here holds the slopes of the inner bounds"),
    Column("rival", "int64", "the class that is excluded in this part of the ball; -1 in an image's first row"),
    Column("activation", "list<int32>", "of each split: the activation, counted from 0 in the order of computation"),
    Column("neuron", "list<int32>", "of each split: the entry of what that activation takes, of one image, as flat"),
    Column("sign", "list<int8>", "of each split: 1 where the entry is >= 0, -1 where it is <= 0"),
    Column("multiplier", "list<float>", "of each split: beta >= 0"),
    Column("slopes", "binary", "255 times the parameter in [0, 1] of every line, a byte each, by activation"),
)
CONSTANT = (
    Column("model", "string", "the model's name in the plan, or its specification"),
    Column("question", "string", "kind, distance, radius and loss in one text"),
    Column("kind", "string", "min-radius or max-loss"),
    Column("metric", "string", "the distance; theta: the perturbation's own"),
    Column("radius", "double", "the radius of max-loss in the metric's unit; null for min-radius"),
    Column("loss", "string", "the loss of max-loss; null for min-radius"),
    Column("method", "string", "the method, with its budget or seed where a question has it several times"),
    Column("through", "string", "the perturbation that makes x_adv of the image; null for x + delta"),
    Column("goal", "string", "what counts as a success (plica.goals); null for misclassification"),
    Column("draws", "int64", "of the mean that was attacked, for models with random outputs; null without"),
    Column("levels", "int64", "the points lie on the grid of so many levels between the bounds; null for any numbers"),
    Column("target", "string", "the only class that counts as a success, or the file of one for each; null for any"),
)  # the same in all rows of a task
TASK = Column("task", "string", "the task's name, and that of its folder in parts/")
IMAGES = (
    Column("x", "(b, *image) uint8 or float", "the images as they were attacked; uint8 where x = uint8 / 255 exactly"),
    Column("y", "(b,) int64, or (b, ...)", "the labels, or what else the goal compares with"),
    Column("targets", "(b,) int64", "the only class that counts as a success; absent where any other class does"),
    Column("id", "(b,) int64", "rows in the data; where it is absent, 0, 1, 2, ..."),
)
MOVED = (
    Column("x_adv", "(b, *image) float", "the points"),
    Column("id", "(b,) int64", "rows in the data; images without an entry are their own points, added by Run.points"),
    Column("theta", "(b, k) float", "with a perturbation T: x_adv = T(x, theta), clamped into the bounds"),
)
BOX = (
    Column("low", "() or (*image) float", "the least value of each feature"),
    Column("high", "() or (*image) float", "the largest value of each feature"),
    Column("mask", "(*image) bool", "true where a feature may move; absent where all may"),
)
MANIFEST_KEYS = (
    Column("format", "number", f"{FORMAT}"),
    Column("plan", "object", "the plan with all its defaults; identity: the part that the answers depend on"),
    Column("hashes", "object", "SHA-256 of the plan's identity, of each model and of the data"),
    Column("answers", "object", "sums of each model's and distance's values on the first images, compared on resuming"),
    Column("versions", "object", "of plica, torch, numpy and Python; the system; the number of threads"),
    Column("data", "object", "n: images in the run; shape: of one image; classes: their names, or null"),
    Column("tasks", "array", "an object per task: name, the constant columns, gradients per image"),
    Column("shard", "string", "i/N where the run is one of N parts of a plan, else null"),
    Column("merged", "array", "of `plica merge`: shard and versions of each part"),
)
SUMMARY_KEYS = (
    Column("format", "number", f"{FORMAT}"),
    Column("complete", "boolean", "whether every chunk of every task is there"),
    Column("questions", "array", "an object per model and question: accuracies, radii, what each method found"),
    Column("notes", "array", "sentences: images that failed, batches that were halved"),
    Column("verdict", "object", "verdict, findings and checks: how far the numbers can be believed"),
)
SINGLE_KEYS = (
    Column("arguments", "object", "the options of the command"),
    Column("versions", "object", "as in manifest.json"),
    Column("images", "number", "how many were attacked"),
    Column("accuracy", "number", "share that is classified correctly without a perturbation"),
    Column("robust_accuracy", "number", "share without a point within the radius; only of `plica attack`"),
    Column(
        "radius", "object", "quantiles of the distance: the smallest within which that share is misclassified, or null"
    ),
    Column("status", "object", "per status: images, and what it means"),
    Column("gradients", "number", "of all images"),
    Column("forwards", "number", "of all images"),
    Column("seconds", "number", "wall time"),
    Column("classes", "array", "names of the classes, where the data have some"),
    Column(
        "verdict", "object", "as in the summary.json of an evaluation; after `plica doctor RUN` or `plica audit RUN`"
    ),
)
CHECKS_KEYS = (Column("MODEL", "object", "per model of the run: verdict, findings and checks, by its name"),)
AUDIT_KEYS = (
    Column("agrees", "boolean", "whether every answer was confirmed"),
    Column("tasks", "array", "an object per task: counts of answers, of successes confirmed, of differences by kind"),
    Column("transfers", "array", "an object per question and pair of models: images that the other's points break"),
)


@dataclass(frozen=True)
class File:
    """A kind of file in a run directory: its path (TASK and 00000 stand for any task and chunk), and its content."""

    path: str
    meaning: str
    columns: tuple[Column, ...] = ()


EVALUATION = (
    File(MANIFEST, "what the run is: written first", MANIFEST_KEYS),
    File("inputs/00000.safetensors", "the images of a chunk", IMAGES),
    File("parts/TASK/00000.parquet", "a row per image of a chunk; written last, so it marks a whole part",
         (*MEASURED, *CERTIFIED, *CONSTANT)),
    File("parts/TASK/00000.safetensors", "the points of a chunk that are not the images themselves", MOVED),
    File("parts/TASK/leaves-00000.parquet", "what proves the lower bounds of a chunk (`certify` in the plan)", LEAVES),
    File(BOUNDS, "where features may move, if that is not [0, 1] for all", BOX),
    File(SUMMARY, "accuracies, radii, verdict", SUMMARY_KEYS),
    File(CHECKS, "what the checks of each model found", CHECKS_KEYS),
    File(AUDIT, "what `plica audit` found", AUDIT_KEYS),
)  # fmt: skip
SINGLE = (
    File(SAMPLES, "a row per image", MEASURED),
    File(POINTS, "the points of all images", MOVED),
    File(INPUTS, "the images", IMAGES),
    File(BOUNDS, "where features may move, if that is not [0, 1] for all", BOX),
    File(PICTURE, "a picture of some perturbations"),
    File(SUMMARY, "written last, so it marks a whole run", SINGLE_KEYS),
    File(AUDIT, "what `plica audit` found", AUDIT_KEYS),
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
