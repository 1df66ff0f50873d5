"""The connector's settings: one table, read from kv_connector_extra_config and the environment."""
from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Options:
    """Each is `name` in kv_connector_extra_config and KVEIK_VLLM_<NAME> in the environment; the
    configuration wins."""

    socket: str = ""
    token: str = ""
    model_id: str = ""
    load: str = "async"
    lookup_timeout_ms: int = 100
    load_deadline_ms: int = 5000
    save_deadline_ms: int = 5000
    handover_timeout_ms: int = 5000
    save_decode: bool = True
    save_blocks_percent: int = 50
    load_failure_policy: str = "recompute"
    admission: str = "default"


_CHOICES = {"load": ("async", "layerwise"), "load_failure_policy": ("recompute", "fail"),
            "admission": ("default", "at-once", "second-use", "eviction", "never")}
_BOUNDS = {"lookup_timeout_ms": (1, 60000), "load_deadline_ms": (10, 600000),
           "save_deadline_ms": (10, 600000), "handover_timeout_ms": (0, 600000),
           "save_blocks_percent": (1, 100)}
HELP = {
    "socket": "kveikd's socket; empty: $KVEIK_SOCKET, else the usual place",
    "token": "names the tenant; empty: the default tenant",
    "model_id": "names the weights, instead of the digest of their files",
    "load": "async: the request waits while others run; layerwise: layer by layer, in the step",
    "lookup_timeout_ms": "how long a request waits to hear what is held; then it computes",
    "load_deadline_ms": "after this the engine would rather compute",
    "save_deadline_ms": "after this a save is given up",
    "handover_timeout_ms": "how long a decode engine waits for the prefill engine's last blocks",
    "save_decode": "also save what was generated, not prompts only",
    "save_blocks_percent": "of the block pool that saves under way may hold; more are dropped",
    "load_failure_policy": "recompute: a failed load costs time; fail: it fails the request",
    "admission": "when blocks go to the daemon's disk; default: as its disk-admission says",
}
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


def _value(field: dataclasses.Field[Any], given: Any, source: str) -> Any:
    """`given` in the type of the field, checked; ValueError says what would be right."""
    name, default = field.name, field.default
    if isinstance(default, bool):
        text = str(given).lower()
        if text not in _TRUE + _FALSE:
            raise ValueError(f"kveik: {source}: {name} is {given!r}, must be true or false")
        return text in _TRUE
    if isinstance(default, int):
        low, high = _BOUNDS[name]
        try:
            number = int(str(given))
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ValueError(f"kveik: {source}: {name} is {given!r}, must be {low} to {high}")
        return number
    text = str(given)
    if name in _CHOICES and text not in _CHOICES[name]:
        raise ValueError(f"kveik: {source}: {name} is {text!r}, must be one of: "
                         f"{', '.join(_CHOICES[name])}")
    return text


def read(extra: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Options:
    """The settings in effect. ValueError for what is unknown or out of bounds."""
    fields = {field.name: field for field in dataclasses.fields(Options)}
    for name in extra:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"kveik: kv_connector_extra_config: unknown setting {name!r}{hint} "
                             f"There are: {', '.join(fields)}")
    values = {}
    for name, field in fields.items():
        variable = f"KVEIK_VLLM_{name.upper()}"
        if name in extra:
            values[name] = _value(field, extra[name], "kv_connector_extra_config")
        elif environ.get(variable, "") != "":
            values[name] = _value(field, environ[variable], variable)
    return Options(**values)
