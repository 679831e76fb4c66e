"""What each database must be in itself. One statement each: it gives the offenders, so none is right."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from orderly.audit.look import Look, Part

CASH: Final = "000000000000700080000000000000c1"
SALES: Final = "000000000000700080000000000000c2"
"""The two system accounts: the world outside, and what customers paid for orders."""

Parameters = Callable[[Look], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Query:
    """A statement whose rows are offenders: an id, and what is wrong. `sql` of several is run one after the other."""

    check: str
    service: str
    count: str
    sql: tuple[str, ...]
    parameters: Parameters = lambda _look: ()
    passes: bool = False
    """Whether time alone may mend it. What one snapshot shows is otherwise never under way."""

    @property
    def part(self) -> Part:
        """The query as a part of the audit."""
        return Part(
            f"{self.check} of {self.service}", (self.check,), (self.service,), self._looks(), passes=self.passes
        )

    def _looks(self) -> Callable[[Look, Sequence[str] | None], Awaitable[None]]:
        async def look(at: Look, among: Sequence[str] | None) -> None:
            snapshot = at.snapshots[self.service]
            if among is None:
                at.examined(self.check, await snapshot.value(self.count))
            for sql in self.sql:
                async for offender, what in snapshot.rows(sql, *self.parameters(at)):
                    at.suspect(self.check, str(offender), str(what))

        return look


_TRANSFERS = "select count(*) from transfers"
_UNMARKED = "select count(*) from outbox where published_at is null"
_MARKED = "select count(*) from outbox where published_at is not null"
_WALLETS = "select count(*) from wallets"

_EVERY_TRANSFER = """
    select t.id, 'its entries sum to ' || coalesce(e.total, 0) || ', and are ' || coalesce(e.sides, 0)
    from transfers t
    left join (select transfer_id, sum(amount_minor) as total, count(*) as sides from entries group by transfer_id) e
        on e.transfer_id = t.id
    where e.transfer_id is null or e.total <> 0 or e.sides <> 2"""

_EVERYTHING = """
    select 'all entries', 'sum to ' || coalesce(sum(amount_minor), 0)
    from entries having coalesce(sum(amount_minor), 0) <> 0"""

_SIDES = """
    select t.id, 'a ' || t.kind || ' between the wrong accounts, or of nothing'
    from transfers t left join wallets w on w.account_id = t.wallet
    where w.account_id is null
        or t.debit <> case t.kind when 'deposit' then $1 when 'refund' then $2 else t.wallet end
        or t.credit <> case t.kind when 'withdrawal' then $1 when 'payment' then $2 else t.wallet end
        or (t.order_id is not null) <> (t.kind in ('payment', 'refund'))
        or t.kind not in ('deposit', 'withdrawal', 'payment', 'refund')
        or t.amount_minor <= 0"""

_BALANCES = """
    select w.user_id, 'holds ' || w.balance_minor || ', but its entries sum to ' || coalesce(e.total, 0)
    from wallets w
    left join (select account_id, sum(amount_minor) as total from entries group by account_id) e
        on e.account_id = w.account_id
    where w.balance_minor <> coalesce(e.total, 0)"""

_STEPS = """
    select id, 'version ' || version || ' with ' || balance || ' follows version ' || version_before
        || ' with ' || balance_before || ', and moves ' || change
    from (
        select id, version, balance_minor as balance,
            case when credit = wallet then amount_minor else -amount_minor end as change,
            lag(version, 1, 0) over (partition by wallet order by version) as version_before,
            lag(balance_minor, 1, 0) over (partition by wallet order by version) as balance_before
        from transfers
    ) as step
    where version <> version_before + 1 or balance <> balance_before + change"""

_NEWEST = """
    select w.user_id, 'holds ' || w.balance_minor || ' at version ' || w.version || ', but its newest transfer left '
        || coalesce(t.balance_minor, 0) || ' at version ' || coalesce(t.version, 0)
    from wallets w
    left join (select wallet, max(version) as version from transfers group by wallet) n on n.wallet = w.account_id
    left join transfers t on t.wallet = n.wallet and t.version = n.version
    where w.version <> coalesce(t.version, 0) or w.balance_minor <> coalesce(t.balance_minor, 0)"""

_BELOW_ZERO = (
    "select user_id, 'holds ' || balance_minor from wallets where balance_minor < 0",
    "select id, 'left a wallet with ' || balance_minor from transfers where balance_minor < 0",
)

_PAYMENTS = (
    """
    select p.order_id, 'accepted, but no such amount left that wallet'
    from payments p
    left join wallets w on w.user_id = p.user_id
    left join transfers t on t.id = p.order_id and t.order_id = p.order_id and t.kind = 'payment'
        and t.amount_minor = p.amount_minor and t.wallet = w.account_id
    where p.outcome = 'accepted' and t.id is null""",
    """
    select coalesce(t.order_id, t.id), 'money was taken, but no payment was accepted'
    from transfers t left join payments p on p.order_id = t.order_id and p.outcome = 'accepted'
    where t.kind = 'payment' and p.order_id is null""",
    """
    select order_id, 'money was taken ' || count(*) || ' times'
    from transfers where kind = 'payment' group by order_id having count(*) > 1""",
)

_REFUNDS = (
    """
    select r.order_id, 'gave back ' || r.amount_minor || ' of ' || coalesce(p.amount_minor, 0) || ' '
        || coalesce(p.outcome, 'without payment')
    from refunds r left join payments p on p.order_id = r.order_id
    where p.order_id is null or p.user_id <> r.user_id
        or r.amount_minor <> case p.outcome when 'accepted' then p.amount_minor else 0 end""",
    """
    select r.order_id, 'no such amount came back to that wallet'
    from refunds r
    left join wallets w on w.user_id = r.user_id
    left join transfers t on t.order_id = r.order_id and t.kind = 'refund'
        and t.amount_minor = r.amount_minor and t.wallet = w.account_id
    where r.amount_minor <> 0 and t.id is null""",
    """
    select coalesce(t.order_id, t.id), 'money came back, but no refund was decided'
    from transfers t left join refunds r on r.order_id = t.order_id and r.amount_minor <> 0
    where t.kind = 'refund' and r.order_id is null""",
    """
    select order_id, 'money came back ' || count(*) || ' times'
    from transfers where kind = 'refund' group by order_id having count(*) > 1""",
)

# An order that was cancelled may be old, and its cancellation new: it counts once billing had to be asked again.
_UNSETTLED = """
    select id, case status when 'pending' then 'pending since ' || created_at
        else 'cancelled, and nobody says what went back' end
    from orders
    where created_at < $1 and (
        status = 'pending'
        or (status = 'cancelled' and refunded_minor is null and (restated > 0 or due_at is null or due_at < $2)))"""

_LETTERS = """
    select id, 'a letter of ' || kind || ' because of ' || cause
    from letters
    where (kind in ('joy', 'sorrow', 'cancelled')) <> (order_id is not null)
        or (kind = 'deposit' and (cause not like 'transfer:%' or length(replace(cause, '-', '')) <> 41))
        or (kind = 'note' and cause not like 'note:%')
        or kind not in ('joy', 'sorrow', 'cancelled', 'deposit', 'note')"""

# What is published again into a stream made anew waits since then.
_UNPUBLISHED = """
    select id, subject || ' of ' || created_at
    from outbox
    where published_at is null and created_at < $1
        and not exists (select 1 from streams where name = $2 and begun_at >= $1)"""

_HALF_MARKED = """
    select id, subject || ' is marked by half'
    from outbox where (published_at is null) <> (sequence is null)"""

_UNATTENDED = "select id, subject || ': ' || error from dead_letters where attended_at is null"


def parts(services: Sequence[str]) -> list[Part]:
    """Make the parts that need one database each."""
    billing = (
        Query("transfers_sum_to_zero", "billing", _TRANSFERS, (_EVERY_TRANSFER, _EVERYTHING)),
        Query("transfers_have_two_sides", "billing", _TRANSFERS, (_SIDES,), lambda _look: (CASH, SALES)),
        Query("wallets_equal_entries", "billing", _WALLETS, (_BALANCES,)),
        Query("wallets_without_gaps", "billing", _TRANSFERS, (_STEPS, _NEWEST)),
        Query("wallets_not_below_zero", "billing", _WALLETS, _BELOW_ZERO),
        Query("payments_moved_money", "billing", "select count(*) from payments", _PAYMENTS),
        Query("refunds_gave_back", "billing", "select count(*) from refunds", _REFUNDS),
    )
    unsettled = Query(
        "orders_settled",
        "orders",
        "select count(*) from orders where due_at is not null or status = 'pending'",
        (_UNSETTLED,),
        lambda look: (look.now - look.limits.order, look.now),
        passes=True,
    )
    letters = Query("letters_have_causes", "notifications", "select count(*) from letters", (_LETTERS,))
    of_each = [query for service in services for query in _of_each(service)]
    return [query.part for query in (*billing, unsettled, letters, *of_each)]


def _of_each(service: str) -> tuple[Query, ...]:
    def due(look: Look) -> Sequence[Any]:
        return look.now - look.limits.outbox, service.upper()

    published = "outbox_published"
    return (
        Query(published, service, _UNMARKED, (_UNPUBLISHED,), due, passes=True),
        Query(published, service, _MARKED, (_HALF_MARKED,)),
        Query("dead_letters_attended", service, "select count(*) from dead_letters", (_UNATTENDED,)),
    )
