"""Packages that only some of the runtimes need: imported when they are, told about when they are missing, kept quiet.

Four of them count their use and, left alone, write into the home folder when imported (a device id, a client id, a
consent file) and send what they counted over the network.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

NO_COUNTING = {"ORT_DISABLE_TELEMETRY": "1", "NNCF_CI": "1", "RAY_USAGE_STATS_ENABLED": "0"}
"""Environment variables by which onnxruntime, nncf and ray let themselves be told not to."""
COUNTER = "openvino_telemetry"
"""OpenVINO's counter is a package of its own, without which it works as well."""


def required(package: str, extra: str) -> Any:
    """The module of an optional package, or one sentence that says how to get it."""
    known = sys.modules.get(package)
    if known is not None:  # None stands for a package that must not be imported
        return known
    for name, value in NO_COUNTING.items():
        os.environ.setdefault(name, value)
    counter = sys.modules.get(COUNTER)
    sys.modules[COUNTER] = None  # type: ignore[assignment]  # importing it now fails, as if it were not installed
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"this needs the package {package}: pip install 'boxwright[{extra}]'") from error
    finally:
        del sys.modules[COUNTER]
        if counter is not None:
            sys.modules[COUNTER] = counter
