"""Lower bounds of robustness radii, within which nothing is misclassified: CROWN, optimised lines, branch and bound."""

from plica.certify.api import certify, check_certifiable
from plica.certify.certificate import Certificate, CertificateStatus

__all__ = ["Certificate", "CertificateStatus", "certify", "check_certifiable"]
