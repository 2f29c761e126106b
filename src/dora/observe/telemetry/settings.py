"""The telemetry that the environment asks for: read once, when a dataflow starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from dora.errors import DoraError

Signal = Literal["traces", "metrics", "logs"]
SIGNALS: Final[tuple[Signal, ...]] = ("traces", "metrics", "logs")
GRPC_PORT: Final = 4317  # by convention; HTTP has 4318
DEFAULT_JAEGER: Final = "http://localhost:4318"

_STANDARD = "OTEL_EXPORTER_OTLP_ENDPOINT"


class TelemetrySettings(msgspec.Struct, frozen=True):
    """``endpoint`` "": OpenTelemetry's own variables name it; they may add headers, too."""

    variable: str  # that asked for it
    endpoint: str = ""
    signals: tuple[Signal, ...] = SIGNALS
    grpc: bool = False


def settings_from(environ: Mapping[str, str]) -> TelemetrySettings | None:
    """Return what is to be exported, None for nothing. Raises `DoraError` for what is no endpoint.

    ``DORA_OTLP_ENDPOINT`` takes precedence over ``DORA_JAEGER_TRACING``, which is for traces only, and
    both over ``OTEL_EXPORTER_OTLP_ENDPOINT`` and its forms for single signals.

    >>> settings_from({"DORA_OTLP_ENDPOINT": "http://localhost:4317"}).grpc
    True
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    signals = tuple(signal for signal in SIGNALS if _exporter(environ, signal) != "none")
    if endpoint := environ.get("DORA_OTLP_ENDPOINT", "").strip():
        return _own("DORA_OTLP_ENDPOINT", endpoint, signals, environ)
    jaeger = environ.get("DORA_JAEGER_TRACING", "").strip()
    if jaeger and jaeger.lower() not in ("0", "false", "off"):
        endpoint = jaeger if "://" in jaeger else DEFAULT_JAEGER
        traces = tuple(signal for signal in signals if signal == "traces")
        return _own("DORA_JAEGER_TRACING", endpoint, traces, environ)
    if not environ.get(_STANDARD):
        signals = tuple(
            signal for signal in signals if environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
        )
    if not signals:
        return None
    return TelemetrySettings(_STANDARD, "", signals, _speaks_grpc(environ, environ.get(_STANDARD, "")))


def _own(
    variable: str, endpoint: str, signals: tuple[Signal, ...], environ: Mapping[str, str]
) -> TelemetrySettings:
    if urlsplit(endpoint).scheme not in ("http", "https"):
        raise DoraError(f"{variable} is `{endpoint}`; it has to be a URL like http://localhost:4318")
    return TelemetrySettings(variable, endpoint.rstrip("/"), signals, _speaks_grpc(environ, endpoint))


def _exporter(environ: Mapping[str, str], signal: Signal) -> str:
    return environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip().lower()


def _speaks_grpc(environ: Mapping[str, str], endpoint: str) -> bool:
    protocol = environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip().lower()
    if protocol:
        return protocol == "grpc"
    try:
        return urlsplit(endpoint).port == GRPC_PORT
    except ValueError:
        return False


def ratio_from(environ: Mapping[str, str]) -> float:
    """Return which part of all traces is recorded, 0 to 1, by the variables of OpenTelemetry.

    Raises `DoraError` if it is not a number.

    >>> ratio_from({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"})
    0.25
    """
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if sampler.endswith("always_off"):
        return 0.0
    text = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    if not text or (sampler and not sampler.endswith("traceidratio")):
        return 1.0
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        raise DoraError(f"OTEL_TRACES_SAMPLER_ARG is `{text}`; it has to be a number from 0 to 1")
    return ratio
