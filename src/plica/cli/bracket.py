"""`plica bracket`: a lower and an upper bound of each image's robustness radius, by a certificate and an attack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from plica.bracket import BUDGET, STARTS
from plica.cli.errors import WrongInputError
from plica.cli.evaluate import OutOption, SkipDoctorOption, carry_out
from plica.cli.options import (
    BoundsOption,
    CountOption,
    DataOption,
    DeviceOption,
    IndicesOption,
    MethodOption,
    ModelOption,
    SampleOption,
    SeedOption,
    TrustOption,
    WeightsOption,
)
from plica.evaluation import Plan, PlanError, read_plan

CHUNK = 8  # images that are stored together: at ten seconds each, an interruption loses little

GradientsOption = Annotated[
    int,
    typer.Option(
        min=1,
        help="budget of the attack per image; where a proof is stuck the attack starts anew near by, up to "
        f"{STARTS} times with {BUDGET} gradients each",
    ),
]
MetricOption = Annotated[
    list[str], typer.Option(help="linf, l2, l1, or file.py:name of a plica.WeightedLp or plica.Held; repeatable")
]
SecondsOption = Annotated[
    float | None, typer.Option(help="approximate time for the proof of each image; 10 unless --nodes is given")
]
NodesOption = Annotated[
    int | None,
    typer.Option(min=1, help="instead of seconds, the number of parts of the ball to bound per image; reproducible"),
]

ArithmeticOption = Annotated[
    str,
    typer.Option(
        help="real: proofs for the network in real arithmetic; executed: for the network as it runs in float32"
    ),
]

EPILOG = """The run is one of `plica evaluate`, with proofs: plica audit checks them, plica report draws both curves.

    plica bracket --model net.py:make --weights net.safetensors --data test.npz --metric linf --out runs/bracket

    plica bracket --model net.py:make --data test.npz --metric linf --metric l2 --seconds 60 --n 20 --out runs/both"""


def bracket(
    *,
    model: ModelOption,
    data: DataOption,
    metric: MetricOption,
    out: OutOption,
    seconds: SecondsOption = None,
    nodes: NodesOption = None,
    arithmetic: ArithmeticOption = "real",
    gradients: GradientsOption = 300,
    weights: WeightsOption = None,
    method: MethodOption = "auto",
    n: CountOption = None,
    sample: SampleOption = None,
    indices: IndicesOption = None,
    seed: SeedOption = 0,
    bounds: BoundsOption = "0,1",
    device: DeviceOption = "cpu",
    trust: TrustOption = False,
    skip_doctor: SkipDoctorOption = False,
) -> None:
    """Find, for every image, the nearest input that the model gets wrong, and prove a lower bound of its distance.

    Finished images are stored: after an interruption the same command resumes.
    """
    if seconds is not None and nodes is not None:
        raise WrongInputError("--nodes takes the place of --seconds; give one of them.")
    chosen = {"path": str(data), "n": n, "sample": sample or "first", "seed": seed, "indices": indices}
    plan = dict(
        models=[{"model": model, "weights": None if weights is None else str(weights), "trust": trust}],
        data={key: value for key, value in chosen.items() if value is not None},
        questions=[{"ask": "min-radius", "metric": metric}],
        methods=[method],
        gradients=gradients, seed=seed, bounds=bounds, device=device, chunk=CHUNK,
        certify={"seconds": 10.0 if seconds is None else seconds, "nodes": nodes, "arithmetic": arithmetic},
    )  # fmt: skip
    carry_out(lambda: _read(plan), Path(out), skip_doctor)


def _read(plan: dict[str, Any]) -> Plan:
    """The plan that the options describe. Errors in it are reported with the names of the options."""
    try:
        return read_plan(plan)
    except PlanError as error:
        message = str(error).removeprefix("The plan: ")
        raise PlanError(message.replace("certify.", "--", 1) if message.startswith("certify.") else message) from None
