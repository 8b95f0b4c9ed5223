"""Findings of checks, how severe they are, and the verdict on the numbers that they lead to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any

from plica.runs.check.common import BrokenRunError
from plica.utils.messages import shown


class Severity(IntEnum):
    """How severe a finding is; the most severe one decides the verdict."""

    NOTE = 0  # worth knowing; the number is valid
    RESERVATION = 1  # the number is correct, but the model may well be less robust
    FATAL = 2  # the number says nothing about the model


class TrustLevel(Enum):
    """May the number be believed?"""

    TRUSTWORTHY = "trustworthy"
    RESERVATIONS = "with reservations"
    NOT_BELIEVED = "not to be believed"


@dataclass(frozen=True)
class Finding:
    """`check` names the check; `sentence` says what was seen and what to do; `share` of the images concerned."""

    check: str
    weight: Severity
    sentence: str
    share: float | None = None

    def record(self) -> dict[str, Any]:
        """The finding as a JSON object."""
        return {"check": self.check, "weight": self.weight.name, "sentence": self.sentence, "share": self.share}

    @staticmethod
    def read(record: Mapping[str, Any]) -> Finding:
        """The finding of a JSON object.

        Raises:
            ValueError: it is not a valid finding.
        """
        try:
            share = record.get("share")
            share = None if share is None else float(share)
            return Finding(str(record["check"]), Severity[record["weight"]], str(record["sentence"]), share)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BrokenRunError(f"{shown(record)} is not a valid finding; write the summary again.") from error


@dataclass(frozen=True)
class Verdict:
    """Findings, the most severe first, and the names of all `checks` that were made."""

    findings: tuple[Finding, ...]
    checks: tuple[str, ...]

    @property
    def belief(self) -> TrustLevel:
        """The trust level that the most severe finding leaves."""
        weight = max((finding.weight for finding in self.findings), default=Severity.NOTE)
        return tuple(TrustLevel)[weight]

    def __str__(self) -> str:
        """The verdict in one line, with the names of the checks that decide it."""
        decisive = [finding.check for finding in self.findings if finding.weight > Severity.NOTE]
        return self.belief.value + (f" ({', '.join(dict.fromkeys(decisive))})" if decisive else "")

    def record(self) -> dict[str, Any]:
        """The verdict as a JSON object, as in summary.json."""
        return {
            "verdict": self.belief.value,
            "findings": [finding.record() for finding in self.findings],
            "checks": list(self.checks),
        }

    @staticmethod
    def read(record: Mapping[str, Any]) -> Verdict:
        """The verdict of a JSON object.

        Raises:
            ValueError: one of its findings is not valid.
        """
        findings = [Finding.read(finding) for finding in record.get("findings", [])]
        return Verdict.of(findings, map(str, record.get("checks", [])))

    @staticmethod
    def of(findings: Iterable[Finding], checks: Iterable[str]) -> Verdict:
        """The verdict of these findings; equal ones are kept once."""
        ordered = sorted(dict.fromkeys(findings), key=lambda finding: -finding.weight)
        return Verdict(tuple(ordered), tuple(dict.fromkeys(checks)))
