"""What HTTP answered, compared with what the system says once everything has settled."""

import asyncio
from collections import Counter
from decimal import Decimal
from typing import Any, Final

from orderly.soak.people import Contradiction, Person

LETTERS: Final = {"confirmed": "joy", "rejected": "sorrow", "cancelled": "cancelled"}
ASKED_AGAIN: Final = 3
LOOK_AGAIN_S: Final = 0.5


async def disagreements(person: Person, within_s: float) -> list[str]:
    """Say what is not as this person was told. Letters may still be on their way for so many seconds."""
    try:
        shown = [order async for order in person.pages("/orders")]
        found = [*_orders(person, shown), *await _money(person)]
        until = asyncio.get_running_loop().time() + within_s
        while wrong := await _letters(person, shown):
            if asyncio.get_running_loop().time() > until:
                break
            await asyncio.sleep(LOOK_AGAIN_S)
        for sent in person.sent[-ASKED_AGAIN:]:
            await person.repeat(sent)
    except Contradiction as why:
        return [f"{person.login}: {why}"]
    return [f"{person.login}: {one}" for one in (*found, *wrong)]


def _orders(person: Person, shown: list[dict[str, Any]]) -> list[str]:
    now = {order["id"]: order for order in shown}
    found = [f"order {one} was taken, and is not there" for one in person.orders if one not in now]
    found += [f"order {one} is there, and nobody was told" for one in now if one not in person.orders]
    for name in now.keys() & person.orders.keys():
        known = person.orders[name]
        due = "cancelled" if known.cancelled else "rejected" if known.dear else "confirmed"
        if now[name]["status"] != due or Decimal(now[name]["price"]) != known.price:
            found.append(f"order {name} should be {due} for {known.price}, and is shown as {now[name]}")
    return found


async def _money(person: Person) -> list[str]:
    entries = [entry async for entry in person.pages("/billing/statement")]
    moved = {entry["id"]: Decimal(entry["amount"]) for entry in entries if entry["order_id"] is None}
    taken: Counter[str] = Counter()
    for entry in entries:
        if entry["order_id"] is not None:
            taken[entry["order_id"]] -= Decimal(entry["amount"])  # type: ignore[assignment] # a Counter of amounts
    found = []
    if moved != person.moved:
        found.append(f"deposits and withdrawals were {person.moved}, and the statement has {moved}")
    for name, order in person.orders.items():
        due = order.price if not order.dear and not order.cancelled else Decimal(0)
        if taken[name] != due:
            found.append(f"order {name} should have cost {due}, and {taken[name]} was taken")
    balance = Decimal((await person.ask("GET", "/billing/account", expects=(200,))).body["balance"])
    due = sum(person.moved.values(), Decimal(0)) - sum(taken.values(), Decimal(0))
    if balance != due:
        found.append(f"the balance should be {due}, and is {balance}")
    return found


async def _letters(person: Person, shown: list[dict[str, Any]]) -> list[str]:
    letters = Counter(
        [(one["order_id"], one["kind"]) async for one in person.pages("/notifications") if one["order_id"]]
    )
    found = [f"{count} letters of {kind} about order {name}" for (name, kind), count in letters.items() if count > 1]
    missing = [order for order in shown if not letters[order["id"], LETTERS.get(order["status"], "")]]
    return found + [f"no letter of {LETTERS.get(one['status'])} about order {one['id']}" for one in missing]
