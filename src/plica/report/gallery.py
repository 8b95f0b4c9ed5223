"""Which images are shown, and the cards that show them: the image, what it was turned into, and the change between.

As many as fit: the most fragile ones first, then evenly over the ranks of the radii, so that any number of them is a
fair picture of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from plica.analysis.contenders import Contender, Group
from plica.report.collect import TaskStats
from plica.report.data_uri import image_uri, is_image, perturbation_uri
from plica.report.formatting import distance, title

FRAGILE = 12  # images that are shown in any case
MOST = 1500  # bytes of text in a card beside its pictures


@dataclass(frozen=True)
class Pick:
    """One card to be: a row of a contender's answers to a question."""

    group: Group
    contender: Contender
    row: int

    @property
    def place(self) -> tuple[str, str]:
        run, task = self.contender.places[int(self.contender.place[self.row])]
        return str(run.directory), task.name

    @property
    def image(self) -> int:
        return int(self.contender.ids[self.row])


def picks(models: Sequence[Group], most: int) -> list[Pick]:
    """At most so many cards, shared alike by the questions: radii where they were asked for, else points in a ball."""
    radii = {group.metric for group in models if group.budget is None}
    shown = [(g, c) for g in models if g.budget is None or g.metric not in radii for c in g.contenders]
    queues = [[Pick(group, c, row) for row in order(c.radius)] for group, c in shown]
    out: list[Pick] = []
    for turn in range(max(map(len, queues), default=0)):
        out += [queue[turn] for queue in queues if turn < len(queue)]
    return out[:most]


def order(radius: np.ndarray) -> list[int]:
    """Rows with a perturbation, the FRAGILE of the smallest radius first, then halving the gaps between ranks."""
    ranked = np.argsort(radius, kind="stable")
    ranked = ranked[(radius[ranked] > 0) & np.isfinite(radius[ranked])]
    first, rest = ranked[:FRAGILE], ranked[FRAGILE:]
    bits = max(1, int(len(rest) - 1).bit_length())
    reverse = [int(f"{k:0{bits}b}"[::-1], 2) for k in range(2**bits)]
    return [*first.tolist(), *[int(rest[k]) for k in reverse if k < len(rest)]]


def cards(
    chosen: Sequence[Pick], looks: dict[tuple[str, str], TaskStats], classes: Sequence[str] | None, room: int
) -> list[dict[str, Any]]:
    """Cards by radius, as many of those chosen as `room` characters hold."""
    out, images = [], {}
    for pick in chosen:
        look = looks[pick.place]
        held = look.shown.get(pick.image)
        pictures = None
        if held is not None and is_image(tuple(held[0].shape)):
            x, x_adv = held
            if pick.image not in images:
                images[pick.image] = image_uri(x)
            change, times = perturbation_uri(x_adv - x)
            pictures = {
                "image": images[pick.image],
                "perturbed": image_uri(x_adv),
                "change": change,
                "times": f"{times:g}",
            }
        room -= MOST // 2 + sum(map(len, (pictures or {}).values()))
        if room < 0:
            break
        out.append(_card(pick, look, classes, pictures))
    return sorted(out, key=lambda card: card["radius"])


def _card(
    pick: Pick, look: TaskStats, classes: Sequence[str] | None, pictures: dict[str, str] | None
) -> dict[str, Any]:
    c, row = pick.contender, pick.row
    return {
        "id": pick.image,
        "model": c.name,
        "question": title(pick.group),
        "metric": pick.group.metric,
        "method": look.task.method,
        "label": named(int(c.label[row]), classes),
        "taken": named(int(c.prediction[row]), classes),
        "radius": float(c.radius[row]),
        "distance": distance(float(c.radius[row])),
        "pictures": pictures,
    }


def named(label: int, classes: Sequence[str] | None) -> str:
    """The class's name, or its number."""
    return classes[label] if classes is not None and 0 <= label < len(classes) else f"class {label}"


def panels(by_method: Sequence[Group], looks: dict[tuple[str, str], TaskStats], image: int) -> list[dict[str, Any]]:
    """One image under every question and method (Fig. 3 and 4 of the paper): perturbation, distance, l1/l2."""
    from plica.analysis.patterns import l1_over_l2

    out = []
    for group in by_method:
        row = []
        for c in group.contenders:
            at = np.flatnonzero(c.ids == image)
            look = looks[str(c.places[0][0].directory), c.places[0][1].name]
            if not len(at) or not 0 < c.radius[at[0]] < np.inf or image not in look.shown:
                continue
            x, x_adv = look.shown[image]
            if not is_image(tuple(x.shape)):
                continue
            uri, times = perturbation_uri(x_adv - x)
            row.append(
                {
                    "name": c.name,
                    "uri": uri,
                    "times": f"{times:g}",
                    "distance": distance(float(c.radius[at[0]])),
                    "dense": f"{float(l1_over_l2((x_adv - x)[None])):.3g}",
                }
            )
        if row:
            out.append({"question": title(group), "cells": row})
    return out


def examples(by_method: Sequence[Group], most: int = 3) -> list[int]:
    """Images that were turned by as many methods as any: of a small, a middle and a large radius."""
    if not by_method:
        return []
    shared = by_method[0].contenders[0].ids
    for group in by_method:
        shared = shared[np.isin(shared, group.contenders[0].ids)]
    found = [c.take(np.isin(c.ids, shared)) for group in by_method for c in group.contenders]
    turned = np.sum([(c.radius > 0) & c.broken for c in found], axis=0)
    if not len(turned) or not turned.max():
        return []
    best = np.flatnonzero(turned == turned.max())
    ranked = best[np.argsort(found[0].radius[best], kind="stable")]
    if len(ranked) > most:
        ranked = ranked[np.linspace(0, len(ranked) - 1, most + 2).round().astype(int)[1:-1]]
    return [int(shared[k]) for k in ranked]
