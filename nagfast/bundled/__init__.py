"""The bundled backbone (model/), the demo's documents (sample/) and the script that trained the backbone."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
MODEL = HERE / "model"
SAMPLE = HERE / "sample"
