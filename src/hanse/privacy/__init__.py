"""Bounds and noise, the steps that a privacy claim rests on, and what it comes to."""

from hanse.privacy.accounting import calibrate, epsilon
from hanse.privacy.adaptive import AdaptiveClip
from hanse.privacy.clip import Clip
from hanse.privacy.gaussian import GaussianNoise
from hanse.privacy.local import LocalGaussianNoise
from hanse.privacy.rotate import Rotate
from hanse.privacy.scaled_round import ScaledRound
from hanse.privacy.skellam import SkellamNoise

__all__ = [
    "AdaptiveClip",
    "Clip",
    "GaussianNoise",
    "LocalGaussianNoise",
    "Rotate",
    "ScaledRound",
    "SkellamNoise",
    "calibrate",
    "epsilon",
]
