"""Wallets, transfers, payments and refunds; the view that shows transfers entry by entry."""

import sqlalchemy as sa
from alembic import op

from libs.storage import Timestamp

revision = "billing_0001"
down_revision = None
branch_labels = ("billing",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "wallets",
        sa.Column("user_id", sa.Uuid, primary_key=True),
        sa.Column("account_id", sa.Uuid, nullable=False, unique=True),
        sa.Column("balance_minor", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False, comment="how many transfers touched it"),
        sa.Column("opened_at", Timestamp, nullable=False),
        sa.CheckConstraint("balance_minor >= 0", name="wallet_never_below_zero"),
    )
    op.create_table(
        "transfers",
        sa.Column(
            "id",
            sa.Uuid,
            primary_key=True,
            comment="a payment's is its order's id: one payment for each order",
        ),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("debit", sa.Uuid, nullable=False, comment="the account the amount leaves"),
        sa.Column("credit", sa.Uuid, nullable=False, comment="the account the amount reaches"),
        sa.Column("amount_minor", sa.BigInteger, nullable=False),
        sa.Column("wallet", sa.Uuid, nullable=False, comment="which of the two is a wallet"),
        sa.Column("version", sa.BigInteger, nullable=False, comment="the wallet's, after it"),
        sa.Column("balance_minor", sa.BigInteger, nullable=False, comment="the wallet's, after it"),
        sa.Column("order_id", sa.Uuid),
        sa.Column("at", Timestamp, nullable=False),
        sa.UniqueConstraint("wallet", "version", name="transfer_follows_transfer"),
        sa.CheckConstraint("amount_minor > 0", name="transfer_moves_something"),
        sa.CheckConstraint("debit <> credit", name="transfer_has_two_sides"),
        sa.CheckConstraint("wallet in (debit, credit)", name="transfer_touches_its_wallet"),
        sa.CheckConstraint("balance_minor >= 0", name="balance_never_below_zero"),
        sa.CheckConstraint("kind in ('deposit', 'withdrawal', 'payment', 'refund')", name="transfer_kind"),
    )
    op.create_index(
        "transfer_once_per_order",
        "transfers",
        ["order_id", "kind"],
        unique=True,
        postgresql_where=sa.text("order_id is not null"),
        sqlite_where=sa.text("order_id is not null"),
    )
    op.execute(
        "create view entries (transfer_id, account_id, amount_minor, at) as "
        "select id, debit, -amount_minor, at from transfers "
        "union all select id, credit, amount_minor, at from transfers"
    )
    op.create_table(
        "payments",
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column("user_id", sa.Uuid, nullable=False),
        sa.Column("amount_minor", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(32)),
        sa.Column("decided_at", Timestamp, nullable=False),
        sa.CheckConstraint("outcome in ('accepted', 'declined')", name="payment_outcome"),
        sa.CheckConstraint("(outcome = 'declined') = (reason is not null)", name="decline_has_a_reason"),
    )
    op.create_table(
        "refunds",
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column("user_id", sa.Uuid, nullable=False),
        sa.Column("amount_minor", sa.BigInteger, nullable=False, comment="0 when nothing had been taken"),
        sa.Column("at", Timestamp, nullable=False),
        sa.CheckConstraint("amount_minor >= 0", name="refund_gives"),
    )
