"""Every format a bundle can be exported to. A new one is one line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deitkit.artifacts.bundle import Bundle
from deitkit.exporters.exported import Exported
from deitkit.exporters.hf_format import export_hf
from deitkit.exporters.timm_format import export_timm

FORMATS: dict[str, Callable[[Bundle, Path], Exported]] = {"timm": export_timm, "hf": export_hf}
"""What `to=` says -> the function that writes a bundle as that folder."""
