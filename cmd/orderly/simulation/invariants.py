"""What must hold whenever a story is quiet: read from outside, with queries that no service uses.

`unsettled` says what has not come to its end yet; `violations` what is wrong. Both name what they found.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from libs.messaging.consumer import durables
from orderly.simulation.stories import Deed, Story
from orderly.simulation.world import World, services


def unsettled(world: World) -> Iterator[str]:
    """Say what is still under way."""
    for name, disk in world.disks.items():
        if (count := disk.rows("select count(*) from outbox where published_at is null")[0][0]) > 0:
            yield f"{count} facts of {name} are not published"
        ids = {message.headers.get("Nats-Msg-Id", "").replace("-", "") for message in world.broker.stored(name)}
        if missing := [row[0] for row in disk.rows("select id from outbox") if row[0] not in ids]:
            yield f"{len(missing)} facts of {name} are not in its stream"
    for service in services():
        for durable in durables(service.name, service.listens):
            stream = world.broker.streams.get(durable.stream)
            progress = stream.durables.get(durable.name) if stream else None
            if progress is None:
                yield f"{service.name} does not listen to {durable.stream}"
            elif progress.due or progress.pending():
                yield f"{service.name} has not handled everything of {durable.stream}"
    for row in world.disks["orders"].rows("select id, status from orders where due_at is not null"):
        yield f"order {row[0]} is {row[1]} and waits for billing"
    for row in world.disks["auth"].rows("select login from users where due_at is not null"):
        yield f"{row[0]} waits for an account"


def violations(world: World, story: Story) -> list[str]:
    """Say what is wrong at a quiet point."""
    found = list(world.complaints)
    for check in (_nothing_set_aside, _books, _payments, _orders, _letters, _contacts, _facts):
        found += check(world)
    for deed in story.deeds():
        found += _answers(world, deed)
    return found


def _nothing_set_aside(world: World) -> Iterator[str]:
    for name, disk in world.disks.items():
        for subject, error in disk.rows("select subject, error from dead_letters"):
            yield f"{name} has set {subject} aside: {error}"


def _books(world: World) -> Iterator[str]:
    """Money is conserved: each balance follows from its entries, one by one, and none was ever below zero."""
    disk = world.disks["billing"]
    entries: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    query = "select wallet, version, balance_minor, amount_minor, kind, debit, credit from transfers order by version"
    totals: Counter[str] = Counter()
    for wallet, version, balance, amount, kind, debit, credit in disk.rows(query):
        incoming = kind in ("deposit", "refund")
        if (credit if incoming else debit) != wallet or debit == credit:
            yield f"a {kind} moved money the wrong way"
        entries[wallet].append((version, balance, amount if incoming else -amount))
        totals[kind] += amount
    for account, balance, version in disk.rows("select account_id, balance_minor, version from wallets"):
        made = entries.pop(account, [])
        steps = [(0, 0, 0), *made]
        for before, after in pairwise(steps):
            if after[0] != before[0] + 1 or after[1] != before[1] + after[2] or after[1] < 0:
                yield f"account {account}: {before} is followed by {after}"
        if (version, balance) != steps[-1][:2]:
            yield f"account {account} has {balance} at version {version}, its entries say {steps[-1]}"
    if entries:
        yield f"there are entries of accounts that are not: {sorted(entries)}"
    wallets = disk.rows("select coalesce(sum(balance_minor), 0) from wallets")[0][0]
    if wallets != totals["deposit"] - totals["withdrawal"] - totals["payment"] + totals["refund"]:
        yield f"the wallets hold {wallets}; moved were {dict(totals)}"


def _payments(world: World) -> Iterator[str]:
    """What was decided is what was moved, to the last cent, and never twice."""
    disk = world.disks["billing"]
    moved = Counter(
        {
            (kind, order): amount
            for kind, order, amount in disk.rows(
                "select kind, order_id, sum(amount_minor) from transfers where order_id is not null group by 1, 2"
            )
        }
    )
    decided = Counter(
        {
            ("payment", order): amount
            for order, amount in disk.rows("select order_id, amount_minor from payments where outcome = 'accepted'")
        }
    )
    decided.update(
        {
            ("refund", order): amount
            for order, amount in disk.rows("select order_id, amount_minor from refunds where amount_minor > 0")
        }
    )
    for key in sorted(moved.keys() | decided.keys()):
        if moved[key] != decided[key]:
            yield f"{key[0]} for order {key[1]}: decided {decided[key]}, moved {moved[key]}"


def _orders(world: World) -> Iterator[str]:
    """Each order's end agrees with what billing did about it."""
    billing = world.disks["billing"]
    payments = {row[0]: row[1:] for row in billing.rows("select order_id, outcome, amount_minor, reason from payments")}
    refunds = dict(billing.rows("select order_id, amount_minor from refunds"))
    query = "select id, status, price_minor, refunded_minor, reason from orders"
    for order, status, price, refunded, reason in world.disks["orders"].rows(query):
        outcome, amount, why = payments.pop(order, (None, None, None))
        refund = refunds.pop(order, None)
        taken = price if outcome == "accepted" else 0
        if amount != price:
            yield f"order {order} costs {price}, billing decided about {amount}"
        if status == "confirmed" and (outcome, refund) != ("accepted", None):
            yield f"order {order} is confirmed; its payment was {outcome}, its refund {refund}"
        if status == "rejected" and (outcome, refund, why) != ("declined", None, reason):
            yield f"order {order} is rejected ({reason}); its payment was {outcome} ({why}), its refund {refund}"
        if status == "cancelled" and not refund == refunded == taken:
            yield f"order {order} is cancelled; {taken} was taken, {refund} given back, {refunded} noted"
        if status == "pending":
            yield f"order {order} is pending"
    if payments or refunds:
        yield f"billing has decided about orders that are not: {sorted(payments.keys() | refunds.keys())}"


def _letters(world: World) -> Iterator[str]:
    """One letter for each outcome, each deposit and each note; every one has an address."""
    confirmed = {fact["order_id"] for _, fact, _ in _stated(world, "orders", "orders.order.confirmed")}
    wanted: Counter[tuple[str, str]] = Counter(("joy", order) for order in confirmed)
    for order, status in world.disks["orders"].rows("select id, status from orders"):
        if (status == "confirmed") > (order in confirmed):
            yield f"nobody was told that order {order} is confirmed"
        if status in ("rejected", "cancelled"):
            wanted["sorrow" if status == "rejected" else "cancelled", order] += 1
    letters = world.disks["notifications"].rows("select kind, order_id, recipient, subject from letters")
    written = Counter((kind, order) for kind, order, _, _ in letters if order)
    for key in sorted(wanted.keys() | written.keys()):
        if wanted[key] != written[key]:
            yield f"letters of {key[0]} about order {key[1]}: {written[key]} instead of {wanted[key]}"
    deposits = world.disks["billing"].rows("select count(*) from transfers where kind = 'deposit'")[0][0]
    if (count := sum(kind == "deposit" for kind, *_ in letters)) != deposits:
        yield f"{count} letters about {deposits} deposits"
    for kind, _, recipient, subject in letters:
        if recipient is None:
            yield f"a letter of {kind} ({subject}) has no address"


def _contacts(world: World) -> Iterator[str]:
    """Whoever writes letters knows everybody as they are now, and everybody has what belongs to them."""
    users = {row[0]: row[1:] for row in world.disks["auth"].rows("select id, login, account_id from users")}
    wallets = dict(world.disks["billing"].rows("select user_id, account_id from wallets"))
    query = "select user_id, login, email, first_name, version from"
    profiles = {row[0]: row[1:] for row in world.disks["profiles"].rows(f"{query} profiles")}
    contacts = {row[0]: row[1:] for row in world.disks["notifications"].rows(f"{query} contacts")}
    if wallets != {user: account for user, (_, account) in users.items()}:
        yield f"users {users} have wallets {wallets}"
    if {user: row[0] for user, row in profiles.items()} != {user: login for user, (login, _) in users.items()}:
        yield f"users {users} have profiles {profiles}"
    if contacts != profiles:
        yield f"profiles are {profiles}, contacts {contacts}"


def _facts(world: World) -> Iterator[str]:
    """Each change was stated once (a restatement says that it is one), and the facts agree with the tables."""
    orders = world.disks["orders"]
    first = Counter(
        (subject.split(".")[2], fact["order_id"])
        for subject, fact, restated in _stated(world, "orders", "orders.order")
        if not restated
    )
    wanted: Counter[tuple[str, str]] = Counter(key for key in first if key[0] == "confirmed")
    for order, status in orders.rows("select id, status from orders"):
        wanted["placed", order] += 1
        if status in ("rejected", "cancelled"):
            wanted[status, order] += 1
    if first != wanted:
        yield f"orders are {dict(wanted)}, stated were {dict(first)}"
    for fact, table, column in (("credited", "deposit", "transfer_id"), ("debited", "withdrawal", "transfer_id")):
        stated = Counter(one[column] for _, one, _ in _stated(world, "billing", f"billing.account.{fact}"))
        made = Counter(row[0] for row in world.disks["billing"].rows("select id from transfers where kind = ?", table))
        if stated != made:
            yield f"{table}s are {dict(made)}, stated were {dict(stated)}"
    outcomes = dict(world.disks["billing"].rows("select order_id, outcome from payments"))
    for subject, fact_, _ in _stated(world, "billing", "billing.payment"):
        outcome = subject.split(".")[2]
        if outcome != "refunded" and outcomes.get(fact_["order_id"]) != outcome:
            yield f"{subject} was stated, decided was {outcomes.get(fact_['order_id'])}"
    versions = Counter((one["user_id"], one["version"]) for _, one, _ in _stated(world, "profiles", "profiles.profile"))
    now = world.disks["profiles"].rows("select user_id, version from profiles")
    if versions != Counter((user, number) for user, version in now for number in range(1, version + 1)):
        yield f"profiles are {now}, stated were {dict(versions)}"
    letters = {row[0] for row in world.disks["notifications"].rows("select id from letters")}
    if letters != {one["letter_id"] for _, one, _ in _stated(world, "notifications", "notifications.letter")}:
        yield "the letters are not those that were stated"


def _stated(world: World, service: str, kind: str) -> list[tuple[str, dict[str, Any], bool]]:
    """Read the facts of a kind as the stream keeps them, each once however often it is stored."""
    seen: dict[str, tuple[str, dict[str, Any], bool]] = {}
    for message in world.broker.stored(service):
        if message.subject.startswith(f"{kind}."):
            fact = json.loads(message.payload)
            plain = {name: value.replace("-", "") if name.endswith("_id") else value for name, value in fact.items()}
            seen[message.headers["Nats-Msg-Id"]] = (message.subject, plain, "restated" in message.headers)
    return list(seen.values())


def _answers(world: World, deed: Deed) -> Iterator[str]:
    """What somebody was answered is what has happened, once."""
    definite = [answer for answer in deed.answers if answer.status != 503]
    if not deed.sent or deed.what == "other":
        for answer in definite:
            # It may come first, and then it is the other one that is refused. A 404 is not kept for a key.
            if deed.what != "other" or answer.status not in (201, 202, 404, 409, 422):
                yield f"{deed}: another body under a known key is answered {answer.status}"
        return
    effects = _effects(world, deed)
    if len(effects) > 1:
        yield f"{deed}: happened {len(effects)} times: {effects}"
    done = [answer for answer in definite if answer.status in (200, 201, 202)]
    if done and not effects:
        yield f"{deed}: is answered {done[0].status} {done[0].body}, and has not happened"
    if any(answer.status == 409 for answer in definite) and done:
        yield f"{deed}: is answered {[answer.status for answer in definite]}"
    if effects and any(answer.status == 409 for answer in definite) and deed.what not in ("cancel", "register"):
        yield f"{deed}: is answered 409, and has happened"
    for answer in done:
        yield from _agrees(deed, answer.status, answer.body, effects)


def _effects(world: World, deed: Deed) -> Sequence[tuple[Any, ...]]:
    """Read what a deed has left: its number stands in its amount, its description or its subject."""
    cents = deed.number % 100
    match deed.what:
        case "register":
            return world.disks["auth"].rows("select id, account_id from users where login = ?", deed.who)
        case "deposit" | "withdraw":
            kind = "deposit" if deed.what == "deposit" else "withdrawal"
            query = "select id, amount_minor, balance_minor from transfers where kind = ? and amount_minor % 100 = ?"
            return world.disks["billing"].rows(query, kind, cents)
        case "order":
            query = "select id, status, reason, refunded_minor, price_minor from orders where price_minor % 100 = ?"
            return world.disks["orders"].rows(query, cents)
        case "cancel":
            query = "select id, status, reason, refunded_minor, price_minor from orders where price_minor % 100 = ?"
            found = world.disks["orders"].rows(query, (deed.of or 0) % 100)
            return [row for row in found if row[1] == "cancelled"]
        case "profile":
            return [("profile",)]
        case _:
            return world.disks["notifications"].rows(
                "select id from letters where kind = 'note' and subject = ?", f"note {deed.number}"
            )


def _agrees(deed: Deed, status: int, body: dict[str, Any], effects: Sequence[tuple[Any, ...]]) -> Iterator[str]:
    """Compare an answer with what there is now; what may have gone on since then is allowed for."""
    if not effects:
        return
    row, said = effects[0], str(body.get("id", "")).replace("-", "")
    if deed.what != "profile" and said != row[0]:
        yield f"{deed}: is answered {said}, there is {row[0]}"
    match deed.what:
        case "register" if (status == 201) is not (body["account"] is not None):
            yield f"{deed}: is answered {status} with account {body['account']}"
        case "register" if body["account"] and body["account"].replace("-", "") != row[1]:
            yield f"{deed}: is answered account {body['account']}, there is {row[1]}"
        case "deposit" | "withdraw" if (_minor(body["amount"]), _minor(body["balance"])) != row[1:]:
            yield f"{deed}: is answered {body}, there is {row}"
        case "order" | "cancel":
            yield from _order_agrees(deed, status, body, row)
        case _:
            pass


def _order_agrees(deed: Deed, status: int, body: dict[str, Any], row: tuple[Any, ...]) -> Iterator[str]:
    said, now = body["status"], row[1]
    if deed.what == "order" and (status == 202) is not (said == "pending"):
        yield f"{deed}: is answered {status} {said}"
    # A confirmed order may have been cancelled since; a pending one may have become anything.
    possible = {"pending": {"confirmed", "rejected", "cancelled"}, "confirmed": {"confirmed", "cancelled"}}
    if now not in possible.get(said, {said}):
        yield f"{deed}: is answered {said}, there is {now}"
    if said == "rejected" and body["reason"] != row[2]:
        yield f"{deed}: is answered {body['reason']}, there is {row[2]}"
    if body["refunded"] is not None and _minor(body["refunded"]) != row[3]:
        yield f"{deed}: is answered a refund of {body['refunded']}, there is {row[3]}"


def _minor(text: str) -> int:
    units, _, cents = text.partition(".")
    return int(units) * 100 + int(cents)
