"""Metrics: well-formed for whoever scrapes them, and never more series than the code has lines."""

from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from libs.telemetry import Metrics


def series(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.text()[0].decode())
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for each in families for one in each.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return series(metrics)[name, tuple(sorted(labels.items()))]


def test_requests_are_counted_by_route_and_status_and_timed() -> None:
    metrics = Metrics()
    metrics.answered("POST", "/orders", 201, 0.02)
    metrics.answered("POST", "/orders", 201, 0.03)
    metrics.answered("POST", "/orders", 422, 0.001)
    assert value(metrics, "http_requests_total", method="POST", route="/orders", status="201") == 2
    assert value(metrics, "http_requests_total", method="POST", route="/orders", status="422") == 1
    labels = {"method": "POST", "route": "/orders"}
    assert value(metrics, "http_request_duration_seconds_count", **labels) == 3
    assert abs(value(metrics, "http_request_duration_seconds_sum", **labels) - 0.051) < 1e-9


def test_what_clients_make_up_makes_no_series() -> None:
    metrics = Metrics()
    metrics.answered("GET", None, 404, 0.001)
    metrics.answered("BREW", None, 404, 0.001)
    before, kept = series(metrics).keys(), len(metrics._answers)
    for number in range(100):
        metrics.answered(f"BREW{number}", None, 404, 0.001)
    assert series(metrics).keys() == before
    assert len(metrics._answers) == kept, "memory that clients fill"
    assert value(metrics, "http_requests_total", method="_OTHER", route="unmatched", status="404") == 101


def test_units_of_work_are_measured_by_what_they_did() -> None:
    metrics = Metrics()
    metrics.committed("place_orders", 1, 0.01)
    metrics.committed("place_orders", 64, 0.03)
    assert value(metrics, "batch_size_sum", work="place_orders") == 65
    assert value(metrics, "batch_size_bucket", work="place_orders", le="32.0") == 1
    assert value(metrics, "batch_duration_seconds_count", work="place_orders") == 2


def test_messages_and_spans_are_counted_by_what_became_of_them() -> None:
    metrics = Metrics()
    metrics.consumed("ORDERS", "handled", 3)
    metrics.consumed("ORDERS", "handled", 2)
    metrics.consumed("ORDERS", "dead")
    metrics.published("stored", 7)
    metrics.spans("dropped", 1)
    assert value(metrics, "messages_consumed_total", stream="ORDERS", outcome="handled") == 5
    assert value(metrics, "messages_consumed_total", stream="ORDERS", outcome="dead") == 1
    assert value(metrics, "messages_published_total", outcome="stored") == 7
    assert value(metrics, "trace_spans_total", outcome="dropped") == 1


def test_several_processes_of_a_test_do_not_count_together() -> None:
    one, other = Metrics(), Metrics()
    one.published("stored", 1)
    assert "messages_published_total" in {name for name, _ in series(one)}
    assert "messages_published_total" not in {name for name, _ in series(other)}


def test_the_process_itself_is_measured() -> None:
    assert {"process_resident_memory_bytes", "python_gc_collections_total"} <= {name for name, _ in series(Metrics())}


def test_whoever_asks_for_open_metrics_gets_it() -> None:
    metrics = Metrics()
    metrics.answered("GET", "/orders", 200, 0.01)
    text, content_type = metrics.text("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert "http_requests" in {family.name for family in open_metrics(text.decode())}  # type: ignore[no-untyped-call] # the library types it not
