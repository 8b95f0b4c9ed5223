"""Where networks, images and weights lie that some tests use: `shared/data` beside the repository."""

from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
