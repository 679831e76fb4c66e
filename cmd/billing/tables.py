"""Billing's tables. The database itself refuses a wallet below zero and a transfer that does not balance."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    Uuid,
)

from libs.storage import Timestamp

METADATA = MetaData()

wallets = Table(
    "wallets",
    METADATA,
    Column("user_id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False, unique=True),
    Column("balance_minor", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False, comment="how many transfers touched it"),
    Column("opened_at", Timestamp, nullable=False),
    CheckConstraint("balance_minor >= 0", name="wallet_never_below_zero"),
)

# One row is both entries of a transfer: the same amount leaves one account and reaches another, so the entries
# sum to zero whatever is written. The view `entries` shows them one by one.
transfers = Table(
    "transfers",
    METADATA,
    Column("id", Uuid, primary_key=True, comment="a payment's is its order's id: one payment for each order"),
    Column("kind", String(16), nullable=False),
    Column("debit", Uuid, nullable=False, comment="the account the amount leaves"),
    Column("credit", Uuid, nullable=False, comment="the account the amount reaches"),
    Column("amount_minor", BigInteger, nullable=False),
    Column("wallet", Uuid, nullable=False, comment="which of the two is a wallet"),
    Column("version", BigInteger, nullable=False, comment="the wallet's, after it"),
    Column("balance_minor", BigInteger, nullable=False, comment="the wallet's, after it"),
    Column("order_id", Uuid),
    Column("at", Timestamp, nullable=False),
    UniqueConstraint("wallet", "version", name="transfer_follows_transfer"),
    CheckConstraint("amount_minor > 0", name="transfer_moves_something"),
    CheckConstraint("debit <> credit", name="transfer_has_two_sides"),
    CheckConstraint("wallet in (debit, credit)", name="transfer_touches_its_wallet"),
    CheckConstraint("balance_minor >= 0", name="balance_never_below_zero"),
    CheckConstraint("kind in ('deposit', 'withdrawal', 'payment', 'refund')", name="transfer_kind"),
)
Index(
    "transfer_once_per_order",
    transfers.c.order_id,
    transfers.c.kind,
    unique=True,
    postgresql_where=transfers.c.order_id.is_not(None),
    sqlite_where=transfers.c.order_id.is_not(None),
)

payments = Table(
    "payments",
    METADATA,
    Column("order_id", Uuid, primary_key=True),
    Column("user_id", Uuid, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("reason", String(32)),
    Column("decided_at", Timestamp, nullable=False),
    CheckConstraint("outcome in ('accepted', 'declined')", name="payment_outcome"),
    CheckConstraint("(outcome = 'declined') = (reason is not null)", name="decline_has_a_reason"),
)

refunds = Table(
    "refunds",
    METADATA,
    Column("order_id", Uuid, primary_key=True),
    Column("user_id", Uuid, nullable=False),
    Column("amount_minor", BigInteger, nullable=False, comment="0 when nothing had been taken"),
    Column("at", Timestamp, nullable=False),
    CheckConstraint("amount_minor >= 0", name="refund_gives"),
)
