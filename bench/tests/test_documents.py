"""What the documents say was measured is what was written down when it was."""

from pathlib import Path
from typing import Any, Final

import orjson
import pytest

DOCS: Final = Path(__file__).parents[2] / "docs"
PERFORMANCE: Final = (DOCS / "performance.md").read_text()
CAPACITY: Final = (DOCS / "capacity.md").read_text()


def found(name: str) -> Any:
    return orjson.loads((DOCS / "benchmarks" / name).read_bytes())


@pytest.mark.parametrize(
    "one", found("orders.json")["results"], ids=lambda one: f"{one['contestant']}-{one['clients']}"
)
def test_orders(one: dict[str, Any]) -> None:
    speed, p50, p99 = (one[name]["median"] for name in ("orders_per_second", "p50_ms", "p99_ms"))
    (row,) = (
        line for line in PERFORMANCE.splitlines() if line.startswith(f"| `{one['contestant']}` | {one['clients']} |")
    )
    assert f"| {speed:,.0f} (" in row
    assert f"| {p50:,.1f} | {p99:,.1f} |" in row
    assert row.endswith(f"| {one['cpu_us']['median']:,.0f} |")
    assert one["wrong"] == []


def test_the_headline() -> None:
    by = {(one["contestant"], one["clients"]): one for one in found("orders.json")["results"]}
    times = by["orderly", 64]["orders_per_second"]["median"] / by["faststream", 64]["orders_per_second"]["median"]
    assert f"**{times:.1f} times**" in PERFORMANCE


def test_reads() -> None:
    by = {(one["contestant"], one["what"]): one["reads_per_second"]["median"] for one in found("reads.json")["results"]}
    for name in {name for name, _ in by}:
        cells = " | ".join(f"{by[name, what]:,.0f}" for what in ("account", "order", "letters"))
        assert f"| `{name}` | {cells} |" in PERFORMANCE


def test_registration() -> None:
    document = found("registration.json")
    assert f"{document['registrations_per_second']['median']:.0f} a second" in PERFORMANCE
    assert f"{document['share_of_argon2']['median']:.0%} of the CPU" in PERFORMANCE


def test_publishing() -> None:
    for one in found("publishing.json")["sums"]:
        assert f"| {one['us_a_message']['median']:,.0f} (" in PERFORMANCE


def test_calls() -> None:
    for what in ("statement", "pooled", "kept"):
        cells = [one["us"] for one in found("calls.json")["sums"] if one["what"] == what]
        said = (f"{cell['median']:,.0f} ({cell['least']:,.0f} to {cell['most']:,.0f})" for cell in cells)
        assert f"| {' | '.join(said)} |" in PERFORMANCE


@pytest.mark.parametrize("one", found("flat.json")["shares"], ids=lambda one: f"{one['what']}-{one['clients']}")
def test_shares_as_data_piles_up(one: dict[str, Any]) -> None:
    assert f"| {one['what']} | {one['clients']} | {one['share']:.1%} |" in PERFORMANCE


def test_capacity_is_computed_from_what_was_measured() -> None:
    (alone,) = (one for one in found("scale.json")["results"] if one["replicas"] == 1)
    for name, cost in alone["cpu_us_by_service"].items():
        assert f"| {name} | {cost:,.0f} |" in CAPACITY
        if name not in {"auth", "profiles"}:
            needed = [-(-rate * cost // 600_000) for rate in (10_000, 100_000)]
            assert f"| cores for {name} | {needed[0]:,.0f} | {needed[1]:,.0f} |" in CAPACITY
    for one in found("scale.json")["results"]:
        assert f"| {one['replicas']} | {one['orders_per_second']['median']:,.0f} (" in CAPACITY
