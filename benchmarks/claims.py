"""Answers about random networks, measured again by lines that share nothing with the package: how many are wrong?

    python benchmarks/claims.py [--answers 100000] [--seed 0] [--into claims.json]

Each case is a small network with random weights in a random precision, and a random metric, question, goal, method and
budget. Of every answer it is seen whether the point lies inside the bounds, whether its distance is the one reported,
whether it lies within the radius, and whether the network misbehaves there: among the other images, in reverse order,
alone, and in float64 where the network computes in float32 or float64. An image left without a point must
come back as it was, and one that is misclassified as it is, by more than rounding, must have the distance 0.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import nn

import plica
from plica.goals import AnyLabel, Deviates, Pixels

ROWS = 200
PRECISIONS = ("float32",) * 5 + ("float64", "bfloat16", "float16", "autocast")


class Autocast(nn.Module):
    """The network under autocast to bfloat16."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x).float()


def network(dice: random.Random, outputs: int, dense: bool) -> tuple[nn.Module, tuple[int, ...]]:
    """A network and the shape of its images."""
    kind = "dense" if dense else dice.choice(["perceptron", "perceptron", "convolutions", "normed", "smooth"])
    activation = nn.Tanh if kind == "smooth" else dice.choice([nn.ReLU, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU])
    width = dice.choice([5, 8, 16, 33])
    if kind in ("perceptron", "smooth"):
        features = dice.choice([2, 3, 7, 20, 64])
        return nn.Sequential(
            nn.Linear(features, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, outputs)
        ), (features,)
    channels, size = dice.choice([1, 3]), dice.choice([6, 8])
    first = nn.Conv2d(channels, width, 3, padding=1)
    if kind == "dense":
        return nn.Sequential(first, activation(), nn.Conv2d(width, outputs, 3, padding=1)), (channels, size, size)
    norm = nn.BatchNorm2d(width) if kind == "normed" else nn.Identity()
    pool = dice.choice([nn.MaxPool2d, nn.AvgPool2d])(2)
    head = nn.Linear(width * (size // 2) ** 2, outputs)
    return nn.Sequential(first, norm, activation(), pool, nn.Flatten(), head), (channels, size, size)


def own_goal(output, y):
    """The mean of the outputs exceeds .3 in size."""
    return output.flatten(1).mean(1).abs() - 0.3


class Case:
    """One random network, and what is asked about it."""

    def __init__(self, seed: int):
        self.dice = dice = random.Random(seed)
        torch.manual_seed(seed)
        self.seed, self.precision = seed, dice.choice(PRECISIONS)
        self.goal_name = dice.choice(["class"] * 6 + ["target", "one logit", "deviates", "tags", "pixels", "own"])
        outputs = 1 if self.goal_name == "one logit" else dice.choice([2, 3, 10])
        net, self.shape = network(dice, outputs, self.goal_name == "pixels")
        for parameter in net.parameters():
            parameter.data *= dice.choice([1, 2])
        self.net = net.eval().requires_grad_(False)
        self.dtype = {"float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}.get(
            self.precision, torch.float32
        )
        self.model = Autocast(self.net) if self.precision == "autocast" else self.net.to(self.dtype)
        self.low, self.high = dice.choice([(0.0, 1.0), (0.0, 1.0), (-2.0, 3.0)])
        x = self.low + (self.high - self.low) * torch.rand(ROWS, *self.shape, dtype=torch.float64)
        self.x = x.to(self.dtype).clamp(self.low, self.high)
        output = self.outputs(self.x).double()
        self.goal, self.targets, self.y = None, None, torch.zeros(ROWS, dtype=torch.int64)
        if self.goal_name in ("class", "target"):
            self.y = output.argmax(1)
            wrong = torch.rand(ROWS) < 0.05
            self.y[wrong] = torch.randint(outputs, (int(wrong.sum()),))
            if self.goal_name == "target":
                self.targets = (self.y + 1) % outputs
        elif self.goal_name == "one logit":
            self.y = (output.flatten() > 0).long()
        elif self.goal_name == "deviates":
            tolerance = 0.1 * float(output.std() + 0.1)
            self.goal, self.y = Deviates(tolerance), (output + 0.3 * tolerance * torch.randn_like(output)).to(x)
            self.y = self.y.to(self.dtype)
        elif self.goal_name == "tags":
            self.goal, self.y = AnyLabel(), (output > 0).long()
        elif self.goal_name == "pixels":
            self.goal, self.y = Pixels(dice.choice([0.02, 0.2])), output.argmax(1)
        else:
            self.goal = own_goal
        self.ask()

    def ask(self) -> None:
        dice = self.dice
        self.p = dice.choice([1.0, 2.0, math.inf, 1.0, 2.0, math.inf, 1.5, 4.0, 0.5])
        self.metric_name = dice.choice(["plain"] * 5 + ["weighted", "held", "sum", "function"])
        self.weights = torch.ones(self.shape, dtype=torch.float64)
        metric = plica.Lp(self.p)
        if self.metric_name == "weighted":
            self.weights = 0.2 + torch.rand(self.shape, dtype=torch.float64)
            metric = plica.WeightedLp(self.p, self.weights)
        elif self.metric_name == "held":
            fixed = torch.rand(self.shape) < 0.3
            fixed.view(-1)[0] = False
            self.weights[fixed] = math.inf
            metric = plica.Held(plica.Lp(self.p), fixed)
        elif self.metric_name == "sum":
            self.p = dice.choice([1.0, 2.0])
            metric = plica.Lp(self.p) + 0.5 * plica.Lp("inf")
        elif self.metric_name == "function":
            metric = lambda x, x_adv: ((x_adv - x).flatten(1) ** 2 + 1e-4).sqrt().sum(1) - 0.01 * x[0].numel()  # noqa: E731
        self.radius = None
        if dice.random() < 0.4:
            power = 0 if self.p == math.inf else 1 / max(self.p, 1)
            size = dice.choice([0.02, 0.1, 0.4]) * math.prod(self.shape) ** power
            self.radius = size * (0.5 + torch.rand(ROWS, dtype=torch.float64))
        loss = dice.choice(["margin", "margin", "ce"])
        self.question = plica.MinRadius(metric) if self.radius is None else plica.MaxLoss(metric, self.radius, loss)
        self.method = dice.choice(["auto"] * 6 + ["pwcf", "pgd", "curved", "radius", "fmn", "square"])
        self.gradients = dice.choice([3, 5, 10, 20, 40]) if self.method != "square" else 20

    def outputs(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.model(x)

    def distance(self, x_adv: torch.Tensor) -> np.ndarray:
        """In float64, written anew."""
        delta = (x_adv.double() - self.x.double()).flatten(1).numpy()
        weights = self.weights.flatten().numpy()
        with np.errstate(invalid="ignore"):
            size = np.where(delta == 0, 0, np.abs(delta) * weights)
        if self.metric_name == "function":
            return np.sqrt(delta**2 + 1e-4).sum(1) - 0.01 * delta.shape[1]
        largest = size.max(1)
        if self.p == math.inf:
            return largest
        total = (size**self.p).sum(1) ** (1 / self.p)
        return total + 0.5 * largest if self.metric_name == "sum" else total

    def misbehaves(self, output: torch.Tensor, by: np.ndarray | float = 0.0) -> np.ndarray:
        """Whether each output does, by more than `by`; written anew, in numpy."""
        out, y = output.double().numpy(), (self.y.double() if self.y.is_floating_point() else self.y).numpy()
        if self.goal_name == "target":
            pairs = zip(out, self.targets.numpy(), strict=True)
            return np.array([min(o[t] - v for i, v in enumerate(o) if i != t) for o, t in pairs]) > by
        if self.goal_name == "class":
            pairs = zip(out, y, strict=True)
            return np.array([max(v for i, v in enumerate(o) if i != t) - o[t] for o, t in pairs]) > by
        if self.goal_name == "one logit":
            return np.where(y == 1, -out.reshape(-1), out.reshape(-1)) > by
        if self.goal_name == "deviates":
            return np.abs(out - y).reshape(ROWS, -1).max(1) > self.goal.tolerance + by
        if self.goal_name == "tags":
            return np.where(y == 1, -out, out).max(1) > by
        if self.goal_name == "own":
            return np.abs(out.reshape(ROWS, -1).mean(1)) > 0.3 + by
        own = np.take_along_axis(out, y[:, None], 1)[:, 0]
        np.put_along_axis(out, y[:, None], -np.inf, 1)
        lead = (out.max(1) - own).reshape(ROWS, -1)
        return (lead > np.reshape(by, (-1, 1))).mean(1) >= self.goal.share - 1e-12

    def wrong(self) -> tuple[Counter[str], Counter[str]]:
        """What was wrong, and what was answered."""
        found = plica.attack(
            self.model, self.x, self.y, self.question, method=self.method, gradients=self.gradients, seed=self.seed,
            bounds=(self.low, self.high), targets=self.targets, goal=self.goal,
        )  # fmt: skip
        ok, x_adv = found.success.numpy(), found.x_adv
        distance, claimed = self.distance(x_adv), found.distance.numpy()
        bad = Counter()
        bad["outside the bounds"] = int((((x_adv < self.low) | (x_adv > self.high)).flatten(1).any(1).numpy()).sum())
        bad["another distance"] = int((ok & (np.abs(distance - claimed) > 1e-9 * (1e-3 + np.abs(claimed)))).sum())
        if self.radius is not None:
            bad["beyond the radius"] = int((ok & (distance > self.radius.numpy() * (1 + 1e-12))).sum())
        bad["no infinite distance without a point"] = int((~ok & np.isfinite(claimed)).sum())
        bad["not the image itself without a point"] = int((~ok & (x_adv != self.x).flatten(1).any(1).numpy()).sum())
        seen = {"together": self.misbehaves(self.outputs(x_adv))}
        seen["reversed"] = self.misbehaves(self.outputs(x_adv.flip(0)).flip(0))
        alone = torch.cat([self.outputs(row[None]) for row in x_adv])
        seen["alone"] = self.misbehaves(alone)
        if self.precision in ("float32", "float64"):
            with torch.no_grad():
                seen["in float64"] = self.misbehaves(copy.deepcopy(self.net).double()(x_adv.double()))
        for how, yes in seen.items():
            bad[f"behaves well {how}"] = int((ok & ~yes).sum())
        if self.precision in ("float32", "float64"):
            with torch.no_grad():
                fine = copy.deepcopy(self.net).double()(self.x.double())
            rounding = 64 * np.finfo(np.float32).eps * fine.abs().flatten(1).amax(1).numpy()  # no less counts
            clear = self.misbehaves(fine, rounding) & self.misbehaves(self.outputs(self.x), rounding)
            bad["misbehaves as it is, and no distance 0"] = int((clear & ~(ok & (claimed == 0))).sum())
        spent = found.gradients.numpy() > self.gradients
        bad["gradients beyond the budget"] = int(spent.sum())
        return +bad, Counter(answers=ROWS, points=int(ok.sum()), moved=int((ok & (claimed > 0)).sum()))


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--answers", type=int, default=100_000)
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--into", type=Path)
    args = parse.parse_args()
    torch.set_num_threads(1)
    total, bad, refused, kinds, seed, start = Counter(), Counter(), Counter(), Counter(), 10**6 * args.seed, time.time()
    while total["answers"] < args.answers:
        case, seed = Case(seed), seed + 1
        words = f"{case.precision}, {case.goal_name}, {case.metric_name} l{case.p:g}, {case.method}"
        try:
            wrong, answered = case.wrong()
        except plica.Unsupported as error:
            refused[str(error)[:60]] += 1
            continue
        total += answered
        bad += wrong
        kinds.update([case.precision, case.goal_name, f"{case.metric_name} metric", case.method,
                      "max-loss" if case.radius is not None else "min-radius"])  # fmt: skip
        if wrong:
            print(f"case {case.seed} ({words}, {case.gradients} gradients): {dict(wrong)}", flush=True)
    print(f"{total['answers']} answers, {total['points']} with a point, {total['moved']} of them not the image; "
          f"{sum(refused.values())} cases refused; {time.time() - start:.0f} s")  # fmt: skip
    print("wrong:", dict(bad) or 0)
    for kind, number in sorted(kinds.items(), key=lambda item: -item[1]):
        print(f"  {number:4}  {kind}")
    if args.into:
        args.into.write_text(json.dumps({"total": total, "wrong": bad, "kinds": kinds, "refused": refused}, indent=1))


if __name__ == "__main__":
    main()
