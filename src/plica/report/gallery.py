"""The gallery: cards that show an image, the perturbed image, and the perturbation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from markupsafe import Markup

from plica.report.choice import Pick
from plica.report.collect import CARDS, ReportData, TaskStats
from plica.report.data_uri import image_uri, is_image, perturbation_uri
from plica.report.formatting import distance, title
from plica.report.templates import fragment

TEXT = 1500  # characters of a card without its images, at most


def section(report: ReportData) -> Markup:
    """As many cards as the page has room for; left out where there is no perturbed image."""
    shown = cards(report)
    if not shown:
        return Markup()
    several = len({c.name for group in report.models for c in group.contenders}) > 1
    questions = [title(group) for group in report.models]
    return fragment("gallery.html", cards=shown, possible=len(report.picks), questions=questions, several=several)


def cards(report: ReportData) -> list[dict[str, Any]]:
    """Cards by radius, as many of the picks as the page has room for."""
    out: list[dict[str, Any]] = []
    images: dict[int, str] = {}  # an image may be in several cards
    room = report.room
    for pick in report.picks[:CARDS]:
        stats = report.stats[pick.task]
        tensors = stats.shown.get(pick.image)
        pictures = None
        if tensors is not None and is_image(tuple(tensors[0].shape)):
            x, x_adv = stats.run.bounds.to_pixels(torch.stack(tensors))
            if pick.image not in images:
                images[pick.image] = image_uri(x)
            change, times = perturbation_uri(x_adv - x)
            pictures = {
                "image": images[pick.image],
                "perturbed": image_uri(x_adv),
                "change": change,
                "times": f"{times:g}",
            }
        room -= TEXT // 2 + sum(map(len, (pictures or {}).values()))
        if room < 0:
            break
        out.append(_card(pick, stats, report.classes, pictures))
    return sorted(out, key=lambda card: card["radius"])


def _card(
    pick: Pick, stats: TaskStats, classes: Sequence[str] | None, pictures: dict[str, str] | None
) -> dict[str, Any]:
    c, row = pick.contender, pick.row
    return {
        "id": pick.image,
        "model": c.name,
        "question": title(pick.group),
        "metric": pick.group.metric,
        "method": stats.task.method,
        "label": _class_name(int(c.label[row]), classes),
        "prediction": _class_name(int(c.prediction[row]), classes),
        "radius": float(c.radius[row]),
        "distance": distance(float(c.radius[row])),
        "pictures": pictures,
    }


def _class_name(label: int, classes: Sequence[str] | None) -> str:
    """The class's name, or its number; empty where a goal knows no classes."""
    if label < 0:
        return ""
    return classes[label] if classes is not None and 0 <= label < len(classes) else f"class {label}"
