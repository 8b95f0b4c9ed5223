"""Can a number be trusted? Checks of models and of finished runs, each with a sentence and a severity.

Nothing here uses the code that it checks: neither the judge nor the losses nor the attacks.
"""

from plica.trust.audit.audit import Audited, audit
from plica.trust.examine import examine
from plica.trust.findings import Finding, Severity, TrustLevel, Verdict
from plica.trust.run_checks import believed, check_model, conclude, refresh, unfinished, verdict

__all__ = [
    "Audited",
    "Finding",
    "Severity",
    "TrustLevel",
    "Verdict",
    "audit",
    "believed",
    "check_model",
    "conclude",
    "examine",
    "refresh",
    "unfinished",
    "verdict",
]
