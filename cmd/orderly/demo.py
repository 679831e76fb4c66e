"""``demo``: a fresh system, the eight steps, and everything that happens on the way, made to be read."""

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import aiohttp
from rich.console import Console, Group
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from libs.local.servers import free_port, port_is_free
from orderly.run import stopping_on_signals
from orderly.story import Exchange, Step, Story, StoryFailed
from orderly.system import Plan, System
from orderly.tail import EVERYTHING, Seen, watching

HIDDEN: Final = ("password", "access_token")
BAR: Final = 36
PIPED_WIDTH: Final = 160


async def demo(plan: Plan) -> int:
    """Start a fresh system, play the story, stop; return 0, or 1 if any step is wrong."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    started = time.monotonic()
    plan = _fresh(plan, console)
    console.print(Text("Orderly", "bold"), Text("six services, one NATS server, eight steps", "dim"))
    console.print()
    system = System(plan, lambda sentence: console.print(Text(sentence, "dim")))
    with console.status("starting a NATS server with JetStream and six services"):
        await system.start()
    console.print(
        Text(f"started in {time.monotonic() - started:.1f} s: gateway {system.url}, {system.nats_url}, SQLite", "dim")
    )
    try:
        async with stopping_on_signals():
            steps = await _play(system, console)
    except StoryFailed as failure:
        console.print(Text(f"\n✗ {failure}", "bold red"))
        console.print(Text(f"logs: {system.logs}", "dim"))
        return 1
    finally:
        with console.status("stopping"):
            await system.stop()
    console.print()
    console.print(Rule("where the time went", align="left", style="dim"))
    console.print(_times(steps))
    console.print(Rule("the order of step 3, from the request to the letter", align="left", style="dim"))
    console.print(_life(steps[2]))
    console.print()
    console.print(Text("✓ all eight steps are as they must be", "bold green"))
    console.print(
        Text("next: ./just run leaves it running, ./just tail shows its events, ./just newman asks it", "dim")
    )
    return 0


async def _play(system: System, console: Console) -> list[Step]:
    seen: list[Seen] = []
    steps = []
    timeout = aiohttp.ClientTimeout(total=15)
    async with (
        watching(system.nats_url, EVERYTHING, seen.append),
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        async for step in Story(session, system.url, seen).play():
            console.print()
            console.print(_shown(step))
            steps.append(step)
    return steps


def _fresh(plan: Plan, console: Console) -> Plan:
    """Use a data folder of the demo's own, emptied; and other ports where the usual ones are taken."""
    folder = plan.data_dir / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    ports: dict[str, Any] = {}
    for name, setting in (("gateway_port", "GATEWAY_PORT"), ("nats_port", "NATS_PORT")):
        if setting not in os.environ and not port_is_free(getattr(plan, name)):
            ports[name] = free_port()
            console.print(Text(f"port {getattr(plan, name)} is in use; taking {ports[name]} instead", "dim"))
    return replace(plan, data_dir=folder, **ports)


def _shown(step: Step) -> Group:
    parts: list[Any] = [Text.assemble((f" {step.number} ", "bold reverse"), " ", (step.title, "bold"))]
    parts += [Padding(_exchange(exchange), (0, 0, 0, 4), expand=False) for exchange in step.exchanges]
    if step.events:
        parts.append(Padding(_events(step), (0, 0, 0, 4), expand=False))
    parts.append(Padding(Text.assemble(("✓ ", "green"), (step.finding, "green")), (0, 0, 0, 4), expand=False))
    return Group(*parts)


def _exchange(exchange: Exchange) -> Group:
    milliseconds = (exchange.ended - exchange.started) * 1000
    line = Text.assemble((exchange.method, "bold magenta"), " ", exchange.path)
    if exchange.sent is not None:
        line.append(f"  {_short(exchange.sent)}", "dim")
    answer = Text.assemble("  → ", (str(exchange.status), "bold"), (f" in {milliseconds:.0f} ms  ", "dim"))
    answer.append(_short(exchange.got), "dim")
    return Group(line, answer)


def _short(value: Any) -> str:
    """Write JSON without secrets and without what is absent; of a page only its items."""
    if isinstance(value, dict) and set(value) == {"items", "next"}:
        value = value["items"]
    if isinstance(value, list):
        return "[" + ", ".join(_short(item) for item in value) + "]"
    shown = {
        name: "…" if name in HIDDEN else item for name, item in value.items() if item is not None and name != "body"
    }
    return json.dumps(shown, ensure_ascii=False)


def _events(step: Step) -> Table:
    table = Table.grid(padding=(0, 2))
    for seen in step.events:
        about = seen.subject.rsplit(".", 1)[-1]
        table.add_row(
            Text(f"+{_since(step, seen.at)}", "yellow", justify="right"),
            Text.assemble((seen.type, "cyan"), (f".{about}", "dim")),
        )
    return table


def _times(steps: Sequence[Step]) -> Table:
    """List how long each step's requests took, and when the last event because of it passed by."""
    table = Table.grid(padding=(0, 2))
    for step in steps:
        asked = sum(exchange.ended - exchange.started for exchange in step.exchanges)
        last = f"last event +{_since(step, step.events[-1].at)}" if step.events else ""
        duration = Text(f"{asked * 1000:.0f} ms", "bold", justify="right")
        table.add_row(str(step.number), Text(step.title, no_wrap=True), duration, Text(last, "yellow"))
    return table


def _life(step: Step) -> Table:
    """Draw what happened to an order between the request and the letter, one leg after the other."""
    request = step.exchanges[0]
    legs = [(seen.type, seen.at, "cyan") for seen in step.events]
    legs.append((f"{request.status} to the client", request.ended, "magenta"))
    legs.sort(key=lambda leg: leg[1])
    whole = legs[-1][1] - request.started
    table = Table.grid(padding=(0, 2))
    before = request.started
    for what, at, style in legs:
        first, last = (round((moment - request.started) / whole * BAR) for moment in (before, at))
        bar = Text(" " * first + "━" * max(last - first, 1), style, no_wrap=True)
        table.add_row(Text(f"+{_since(step, at)}", "yellow", justify="right"), Text(what, style, no_wrap=True), bar)
        before = at
    return table


def _since(step: Step, moment: float) -> str:
    return f"{(moment - step.exchanges[0].started) * 1000:.0f} ms"
