"""Settings that the weights do not show: color order, feature, and what else makes the same weights another model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bot_deploy.artifacts.contract import weights_fingerprint
from bot_deploy.choices import COLORS, FEATURES, feature_name
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from bot_deploy.artifacts.contract import Contract

Rgb = tuple[float, float, float]


def check_color(color: str) -> None:
    """Raises `InputError` if `color` is not one of `choices.COLORS`."""
    if color not in COLORS:
        raise InputError(f"color {color!r}; choose from {', '.join(COLORS)}", parameter="color")


def check_feature(feature: str, *, has_neck: bool) -> None:
    """Raises `InputError` if there is no such feature, or if it needs a neck that the network lacks."""
    if feature_name(feature) not in FEATURES:
        raise InputError(f"unknown feature {feature!r}; choose from {', '.join(FEATURES)}", parameter="feature")
    if feature_name(feature) == "after" and not has_neck:
        raise InputError("it has no neck; take the feature before it", parameter="feature")


def take_rgb(first_weight: Tensor, mean: Rgb, std: Rgb) -> tuple[Rgb, Rgb]:
    """Changes a network of BGR images to take RGB.

    Args:
        first_weight: of its first convolution, [C, 3, H, W]; its order is reversed in place.
        mean: of its normalisation, in BGR.
        std: of its normalisation, in BGR.

    Returns:
        Mean and standard deviation in RGB.
    """
    first_weight.data = first_weight.data.flip(1)
    return (mean[2], mean[1], mean[0]), (std[2], std[1], std[0])


def with_settings(contract: Contract, *settings: object) -> Contract:
    """`contract` with another fingerprint: the same weights with other `settings` are another model."""
    parts = [("weights", contract.fingerprint.encode()), ("settings", repr(settings).encode())]
    return replace(contract, fingerprint=weights_fingerprint(parts))
