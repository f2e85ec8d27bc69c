"""Bounds and noise: the steps that a privacy claim rests on."""

from hanse.privacy.clip import Clip
from hanse.privacy.gaussian import GaussianNoise

__all__ = ["Clip", "GaussianNoise"]
