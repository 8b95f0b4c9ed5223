"""How close the solver comes to the known optima of the reference problems, and at what cost.

    python benchmarks/references.py [--dtype float32] [--only hs71 --only cb2] [--tol 1e-6] [--memory 10]

m counts the inequalities (bounds among them), k the equalities; an evaluation is one call of fun with its gradients.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

import plica

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from solver.references import INFEASIBLE, REFERENCES, UNBOUNDED, parts

# What counts as reached: |f - f*| <= GAP max(1, |f*|) with a largest violation of at most VIOLATION.
GAP, VIOLATION = 1e-4, 1e-5
LINE = "{:<20}{:>4}{:>4}{:>4}{:>11}{:>11}{:>12}{:>7}{:>7}  {}"
HEAD = LINE.format("name", "n", "m", "k", "f - f*", "violation", "stationary", "steps", "evals", "status")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--only", action="append", metavar="NAME", help="this problem alone; may be repeated")
    parser.add_argument("--tol", type=float, default=1e-6)
    parser.add_argument("--memory", type=int, help="pairs of limited-memory BFGS")
    parser.add_argument("--max-steps", type=int, default=1000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    options = {"tol": asked.tol, "memory": asked.memory, "max_steps": asked.max_steps}
    every = [*REFERENCES.values(), *INFEASIBLE, *UNBOUNDED]
    chosen = [problem for problem in every if not asked.only or problem.name in asked.only]
    names = [problem.name for problem in every]
    if unknown := set(asked.only or ()).difference(names):
        sys.exit(f"There is no reference problem named {', '.join(unknown)}; there are {', '.join(names)}.")
    print(HEAD)
    began = perf_counter()
    rows = [run(problem, getattr(torch, asked.dtype), options) for problem in chosen]
    answered = [row for row in rows if row is not None]
    if answered:
        evaluations = [count for _, count in answered]
        reached = sum(row[0] for row in answered)
        print(f"\n{reached} of {len(answered)} reached to {GAP:g} max(1, |f*|) with violation <= {VIOLATION:g}")
        print(f"evaluations: median {median(evaluations):g}, total {sum(evaluations)}; {perf_counter() - began:.1f} s")


def run(problem, dtype: torch.dtype, options: dict) -> tuple[bool, int] | None:
    """Solve and print a line; (reached, evaluations), or None where there is no optimum."""
    x0 = problem.start(dtype)
    _, c, h = parts(problem.fun(x0[None]))
    found = plica.minimize(problem.fun, x0, **options)
    f_star = getattr(problem, "f_star", None)
    gap = float(found.f) - (f_star or 0.0)
    reached = f_star is not None and abs(gap) <= GAP * max(1, abs(f_star)) and float(found.violation) <= VIOLATION
    status = found.status.name if reached or f_star is None else f"{found.status.name}, MISSED"
    measured = [f"{float(number):.1e}" for number in (gap, found.violation, found.stationarity)]
    counts = int(found.steps), int(found.evaluations)
    print(LINE.format(problem.name, len(x0), c.shape[1], h.shape[1], *measured, *counts, status), flush=True)
    return None if f_star is None else (reached, int(found.evaluations))


if __name__ == "__main__":
    main()
