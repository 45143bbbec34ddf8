"""Networks whose every exit answers: one protocol, one file per architecture, one registry."""

from core.models.protocol import ExitModel
from core.models.registry import ARCHITECTURES, build_model

__all__ = ["ARCHITECTURES", "ExitModel", "build_model"]
