"""What a check found, how much it weighs, and what all of it together means for the number beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any


class Severity(IntEnum):
    """What a finding does to the verdict."""

    NOTE = 0  # worth knowing; the number stands
    RESERVATION = 1  # the number holds for what was asked, but is likely too kind to the model
    FATAL = 2  # the number says nothing about the model


class TrustLevel(Enum):
    """May the number be believed?"""

    TRUSTWORTHY = "trustworthy"
    RESERVATIONS = "with reservations"
    NOT_BELIEVED = "not to be believed"


@dataclass(frozen=True)
class Finding:
    """`check` names the check, `sentence` says what was seen and what to do; `share` of the images, where it is one."""

    check: str
    weight: Severity
    sentence: str
    share: float | None = None

    def record(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return {"check": self.check, "weight": self.weight.name, "sentence": self.sentence, "share": self.share}

    @staticmethod
    def read(record: Mapping[str, Any]) -> Finding:
        """The finding of a record.

        Raises:
            ValueError: it is no record of a finding.
        """
        try:
            share = record.get("share")
            share = None if share is None else float(share)
            return Finding(str(record["check"]), Severity[record["weight"]], str(record["sentence"]), share)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{record!r} is no finding; make the summary anew.") from error


@dataclass(frozen=True)
class Verdict:
    """Findings, the heaviest first, and the `checks` that were made, found or not."""

    findings: tuple[Finding, ...]
    checks: tuple[str, ...]

    @property
    def belief(self) -> TrustLevel:
        """The heaviest finding decides."""
        weight = max((finding.weight for finding in self.findings), default=Severity.NOTE)
        return tuple(TrustLevel)[weight]

    def __str__(self) -> str:
        """The verdict in one line, with the names of the checks that decide it."""
        decisive = [finding.check for finding in self.findings if finding.weight > Severity.NOTE]
        return self.belief.value + (f" ({', '.join(dict.fromkeys(decisive))})" if decisive else "")

    def record(self) -> dict[str, Any]:
        """As summary.json keeps it."""
        return {
            "verdict": self.belief.value,
            "findings": [finding.record() for finding in self.findings],
            "checks": list(self.checks),
        }

    @staticmethod
    def read(record: Mapping[str, Any]) -> Verdict:
        """The verdict of a record.

        Raises:
            ValueError: it is no record of a verdict.
        """
        findings = [Finding.read(finding) for finding in record.get("findings", [])]
        return Verdict.of(findings, map(str, record.get("checks", [])))

    @staticmethod
    def of(findings: Iterable[Finding], checks: Iterable[str]) -> Verdict:
        """The same finding counts once."""
        ordered = sorted(dict.fromkeys(findings), key=lambda finding: -finding.weight)
        return Verdict(tuple(ordered), tuple(dict.fromkeys(checks)))
