"""How measurements are written: JSON that any reader understands."""

import json
import math
from pathlib import Path
from typing import Any


def write_result(file: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Writes a measurement, and returns it as a reader of the file finds it.

    Args:
        file: Where it goes.
        content: Of JSON's types; a number that is not finite, which JSON does not know, is written as null.
    """
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    file.write_text(text, encoding="utf-8")
    read: dict[str, Any] = json.loads(text)
    return read


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
