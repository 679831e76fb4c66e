"""What databases must agree on. Rows are merged by the id they have in common, a page at a time in memory."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final, NamedTuple

from orderly.audit.look import Look, Part
from orderly.audit.reading import Snapshot, together

Verdict = tuple[str, str]
"""A check, and what is wrong."""

_ORDERS: Final = """
    select id, user_id, price_minor, status, reason, refunded_minor from orders where {} order by id"""

_PAYMENTS: Final = """
    select p.order_id, p.user_id, p.amount_minor, p.outcome, p.reason, r.amount_minor
    from payments p left join refunds r on r.order_id = p.order_id where {} order by p.order_id"""

_LETTERS: Final = """
    select order_id, kind, user_id, cause from letters where order_id is not null and {} order by order_id"""

_DEPOSITS: Final = """
    select t.id, w.user_id from transfers t left join wallets w on w.account_id = t.wallet
    where t.kind = 'deposit' and {} order by t.id"""

# `letters_have_causes` names those whose cause is of another form.
_DEPOSIT_LETTERS: Final = """
    select transfer, user_id from (
        select lower(replace(substr(cause, 10), '-', '')) as transfer, user_id from letters
        where kind = 'deposit' and cause like 'transfer:%' and length(replace(cause, '-', '')) = 41
    ) as letter where {} order by transfer"""

_USERS: Final = "select id, account_id from users where {} order by id"
_PROFILES: Final = "select user_id from profiles where {} order by user_id"
_WALLETS: Final = "select user_id, account_id from wallets where {} order by user_id"
_CONTACTS: Final = "select user_id, version from contacts where {} order by user_id"

_OUTCOMES: Final = {"confirmed": "joy", "rejected": "sorrow", "cancelled": "cancelled"}


class Order(NamedTuple):
    """An order, as its service knows it."""

    id: str
    user_id: str
    price: int
    status: str
    reason: str | None
    refunded: int | None


class Payment(NamedTuple):
    """What billing decided on an order; `refunded` is None unless it was cancelled."""

    order_id: str
    user_id: str
    amount: int
    outcome: str
    reason: str | None
    refunded: int | None


class Letter(NamedTuple):
    """A letter about an order."""

    order_id: str
    kind: str
    user_id: str
    cause: str


def _rows(snapshot: Snapshot, sql: str, column: str, among: Sequence[str] | None) -> AsyncIterator[Sequence[Any]]:
    return snapshot.rows(sql.format("1 = 1")) if among is None else snapshot.among(sql, column, among)


async def look_at_orders(look: Look, among: Sequence[str] | None) -> None:
    """Follow every order from its payment to its letters."""
    by_id = together(
        _rows(look.snapshots["orders"], _ORDERS, "id", among),
        _rows(look.snapshots["billing"], _PAYMENTS, "p.order_id", among),
        _rows(look.snapshots["notifications"], _LETTERS, "order_id", among),
    )
    number = orders = payments = 0
    async for order_id, (placed, paid, written) in by_id:
        number += 1
        look.step(number)
        orders += len(placed)
        payments += len(paid)
        order = Order(*placed[0]) if placed else None
        payment = Payment(*paid[0]) if paid else None
        for check, what in _verdicts(order, payment, [Letter(*letter) for letter in written]):
            look.suspect(check, order_id, what)
    if among is None:
        for check, count in (
            ("orders_paid", orders),
            ("orders_refunded", orders),
            ("payments_have_orders", payments),
            ("letters_of_orders", orders),
        ):
            look.examined(check, count)


def _verdicts(order: Order | None, payment: Payment | None, letters: Sequence[Letter]) -> Iterator[Verdict]:
    if order is not None:
        yield from _about_payment(order, payment)
        yield from _about_refund(order, payment)
        yield from _about_letters(order, payment, letters)
        return
    if payment is not None:
        yield "payments_have_orders", f"a payment that was {payment.outcome}, and no order"
    if letters:
        yield "letters_have_causes", f"a letter of {letters[0].kind} about this order, which is not there"


def _about_payment(order: Order, payment: Payment | None) -> Iterator[Verdict]:
    check = "orders_paid"
    if payment is None:
        if order.status in ("confirmed", "rejected"):
            yield check, f"{order.status}, but there is no payment"
        return
    if (payment.user_id, payment.amount) != (order.user_id, order.price):
        yield check, f"the payment is of {payment.amount} and not of {order.price}, or somebody else's"
    if (order.status, payment.outcome) in (("confirmed", "declined"), ("rejected", "accepted")):
        yield check, f"{order.status}, but the payment was {payment.outcome}"
    elif order.status == "rejected" and payment.reason != order.reason:
        yield check, f"rejected because of {order.reason}, but declined because of {payment.reason}"


def _about_refund(order: Order, payment: Payment | None) -> Iterator[Verdict]:
    """An order that is cancelled and does not say yet what went back awaits it: that has a deadline."""
    check = "orders_refunded"
    went_back = payment.refunded if payment else None
    if order.status != "cancelled":
        if went_back is not None:
            yield check, f"{order.status}, but {went_back} went back"
        return
    if order.refunded is not None and went_back != order.refunded:
        yield check, f"says that {order.refunded} went back, but it was {went_back}"
    taken = order.price if payment and payment.outcome == "accepted" else 0
    if went_back is not None and went_back != taken:
        yield check, f"{taken} had been taken, but {went_back} went back"


def _about_letters(order: Order, payment: Payment | None, letters: Sequence[Letter]) -> Iterator[Verdict]:
    wanted = _OUTCOMES.get(order.status)
    kinds = [letter.kind for letter in letters]
    if wanted and wanted not in kinds:
        yield "letters_of_orders", f"{order.status}, but there is no letter of {wanted}"
    allowed = {wanted}
    if order.status == "cancelled" and payment and payment.outcome == "accepted":
        allowed.add("joy")  # it was confirmed before
    for kind in dict.fromkeys(kinds):
        if kinds.count(kind) > 1:
            yield "letters_of_orders", f"{kinds.count(kind)} letters of {kind}"
        if kind not in allowed:
            yield "letters_have_causes", f"{order.status}, but there is a letter of {kind}"
    for letter in letters:
        if letter.user_id != order.user_id:
            yield "letters_of_orders", f"the letter of {letter.kind} is for somebody else"
        if letter.cause.replace("-", "") != f"order:{order.id}:{letter.kind}":
            yield "letters_have_causes", f"the letter of {letter.kind} names another cause: {letter.cause}"


async def look_at_deposits(look: Look, among: Sequence[str] | None) -> None:
    """Compare deposits with the letters about them."""
    by_id = together(
        _rows(look.snapshots["billing"], _DEPOSITS, "t.id", among),
        _letters_of_deposits(look.snapshots["notifications"], among),
    )
    deposits = number = 0
    async for transfer_id, (made, written) in by_id:
        number += 1
        look.step(number)
        deposits += len(made)
        if not made:
            look.suspect("letters_have_causes", transfer_id, "a letter of deposit, and no deposit")
        elif len(written) != 1:
            look.suspect("letters_of_deposits", transfer_id, f"{len(written)} letters about this deposit")
        elif written[0][1] != made[0][1]:
            look.suspect("letters_of_deposits", transfer_id, "the letter is for somebody else")
    if among is None:
        look.examined("letters_of_deposits", deposits)


def _letters_of_deposits(snapshot: Snapshot, among: Sequence[str] | None) -> AsyncIterator[Sequence[Any]]:
    """Read letters about deposits. Their transfers are parts of texts."""
    sql = _DEPOSIT_LETTERS + snapshot.bytewise
    return snapshot.rows(sql.format("1 = 1")) if among is None else snapshot.among(sql, "transfer", among, kind="text")


async def look_at_users(look: Look, among: Sequence[str] | None) -> None:
    """Look for what every user must have, and for what belongs to nobody."""
    by_id = together(
        _rows(look.snapshots["auth"], _USERS, "id", among),
        _rows(look.snapshots["profiles"], _PROFILES, "user_id", among),
        _rows(look.snapshots["billing"], _WALLETS, "user_id", among),
        _rows(look.snapshots["notifications"], _CONTACTS, "user_id", among),
    )
    users = number = 0
    async for user_id, (registered, profiles, wallets, contacts) in by_id:
        number += 1
        look.step(number)
        users += len(registered)
        has = {
            "profile": bool(profiles),
            "account": bool(wallets),
            "contact": bool(contacts) and contacts[0][1] >= 0,  # below it is a place kept for one
        }
        if not registered:
            for what in (name for name, there in has.items() if there):
                look.suspect("users_complete", user_id, f"nobody is registered under this id, but it has a {what}")
            continue
        if lacking := [name for name, there in has.items() if not there]:
            look.suspect("users_complete", user_id, f"has no {' and no '.join(lacking)}")
        elif registered[0][1] != wallets[0][1]:
            look.suspect("users_complete", user_id, "auth knows of another account, or of none")
    if among is None:
        look.examined("users_complete", users)


PARTS: Final = (
    Part(
        "orders",
        ("orders_paid", "orders_refunded", "payments_have_orders", "letters_of_orders", "letters_have_causes"),
        ("orders", "billing", "notifications"),
        look_at_orders,
    ),
    Part("deposits", ("letters_of_deposits", "letters_have_causes"), ("billing", "notifications"), look_at_deposits),
    Part("users", ("users_complete",), ("auth", "profiles", "billing", "notifications"), look_at_users),
)
