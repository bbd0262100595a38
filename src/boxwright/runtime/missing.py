"""Optional packages: imported when they are needed, with a clear error where one is missing, and without telemetry.

Four of them collect usage statistics: by default they write into the home folder when imported (a device id, a client
id, a consent file) and send what they collected over the network.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1", "NNCF_CI": "1", "RAY_USAGE_STATS_ENABLED": "0"}
"""Environment variables that switch the telemetry of onnxruntime, nncf and ray off."""
TELEMETRY_PACKAGE = "openvino_telemetry"
"""OpenVINO's telemetry is a separate package, without which it works as well."""


def required(package: str, extra: str) -> Any:
    """The module of an optional package. Raises ImportError with the command that installs it."""
    known = sys.modules.get(package)
    if known is not None:  # None stands for a package that must not be imported
        return known
    for name, value in NO_TELEMETRY.items():
        os.environ.setdefault(name, value)
    telemetry = sys.modules.get(TELEMETRY_PACKAGE)
    sys.modules[TELEMETRY_PACKAGE] = None  # type: ignore[assignment]  # importing it now fails, as if it were not installed
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"this needs the package {package}: pip install 'boxwright[{extra}]'") from error
    finally:
        del sys.modules[TELEMETRY_PACKAGE]
        if telemetry is not None:
            sys.modules[TELEMETRY_PACKAGE] = telemetry
