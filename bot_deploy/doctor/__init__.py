"""Finds why matches are bad: what usual preprocessing mistakes would do to a user's crops, and signs of them."""

from .crop_checks import DoctorWarning
from .diagnosis import diagnose
from .report import Diagnosis, Effect

__all__ = ["Diagnosis", "DoctorWarning", "Effect", "diagnose"]
