"""What billing answers over HTTP, about the caller's own account."""

from datetime import datetime
from typing import Annotated, TypeAlias
from uuid import UUID

from pydantic import BaseModel, Field

from billing.domain import DeclineReason, Transfer, TransferKind
from billing.handlers import Moved, Movement, declined, deposit, withdraw
from billing.ports import Books
from billing.settings import Settings
from libs.ids import uuid7
from libs.money import Amount, Money, SignedMoney
from libs.web.commands import CommandHandler
from libs.web.fields import Matches, Page, Request
from libs.web.routes import Answer, Call, Edge, Route

Version = Annotated[
    str,
    # as many digits as fit into the database's bigint
    Matches("[0-9]{1,18}", "must be the `next` of another page"),
]
BillingEdge: TypeAlias = Edge[Books, Settings]


class MoveMoney(Request):
    """How much to bring in, or to take out."""

    amount: Amount


class StatementPage(Page):
    """Which part of a statement."""

    cursor: Version | None = Field(None, description="the `next` of the page before")


class Account(BaseModel):
    """The caller's account."""

    balance: Money
    currency: str


class MovementMade(BaseModel):
    """A deposit or a withdrawal that was made."""

    id: UUID
    amount: Money
    balance: Money


class Entry(BaseModel):
    """One line of a statement: what changed, and the balance after it."""

    id: UUID
    kind: TransferKind
    amount: SignedMoney
    balance: Money
    order_id: UUID | None
    created_at: datetime


class Statement(BaseModel):
    """A page of a statement, newest first."""

    items: list[Entry]
    next: str | None


async def show_account(call: Call[None], edge: BillingEdge) -> Answer:
    """Show the caller's balance."""
    async with edge.read() as books:
        wallet = (await books.wallets([call.caller.user_id])).get(call.caller.user_id)
    if wallet is None:
        raise declined(DeclineReason.ACCOUNT_NOT_OPEN)
    return Answer(200, Account(balance=wallet.balance_minor, currency=edge.tools.currency))


async def make_deposit(call: Call[MoveMoney], edge: BillingEdge) -> Answer:
    """Bring money in."""
    return await _move(deposit, call, edge)


async def make_withdrawal(call: Call[MoveMoney], edge: BillingEdge) -> Answer:
    """Take money out."""
    return await _move(withdraw, call, edge)


async def _move(handler: CommandHandler[Movement, Books, Moved], call: Call[MoveMoney], edge: BillingEdge) -> Answer:
    wanted = Movement(uuid7(), call.caller.user_id, call.input.amount)
    moved = await edge.execute(handler, call, wanted, returns=Moved)
    return Answer(201, MovementMade(id=moved.transfer_id, amount=moved.amount_minor, balance=moved.balance_minor))


async def show_statement(call: Call[StatementPage], edge: BillingEdge) -> Answer:
    """List what changed the caller's balance."""
    async with edge.read() as books:
        wallet = (await books.wallets([call.caller.user_id])).get(call.caller.user_id)
        if wallet is None:
            raise declined(DeclineReason.ACCOUNT_NOT_OPEN)
        below = int(call.input.cursor) if call.input.cursor is not None else None
        found = await books.statement(wallet.account_id, below_version=below, limit=call.input.limit + 1)
    shown = found[: call.input.limit]
    more = str(shown[-1].version) if len(found) > len(shown) else None
    return Answer(200, Statement(items=[_entry(transfer) for transfer in shown], next=more))


def _entry(transfer: Transfer) -> Entry:
    return Entry(
        id=transfer.id,
        kind=transfer.kind,
        amount=transfer.change_minor,
        balance=transfer.balance_minor,
        order_id=transfer.order_id,
        created_at=transfer.at,
    )


ROUTES = (
    Route("GET", "/billing/account", show_account, {200: Account}, refusals=("account_not_open",)),
    Route(
        "POST",
        "/billing/deposits",
        make_deposit,
        {201: MovementMade},
        body=MoveMoney,
        refusals=("account_not_open",),
    ),
    Route(
        "POST",
        "/billing/withdrawals",
        make_withdrawal,
        {201: MovementMade},
        body=MoveMoney,
        refusals=("account_not_open", "insufficient_funds"),
    ),
    Route(
        "GET",
        "/billing/statement",
        show_statement,
        {200: Statement},
        query=StatementPage,
        refusals=("account_not_open",),
    ),
)
