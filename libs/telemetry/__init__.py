"""Telemetry: what a process says about itself. Metrics on request, spans to a collector if there is one."""

from libs.telemetry.metrics import Metrics
from libs.telemetry.process import Telemetry
from libs.telemetry.spans import Kind, Span, Spans

__all__ = ["Kind", "Metrics", "Span", "Spans", "Telemetry"]
