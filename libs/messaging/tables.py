"""The tables every service with a place on the bus has."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    Uuid,
)

from libs.storage import Timestamp

METADATA = MetaData()

outbox = Table(
    "outbox",
    METADATA,
    Column("id", Uuid, primary_key=True, comment="UUIDv7; also Nats-Msg-Id"),
    Column("subject", Text, nullable=False),
    Column("payload", Text, nullable=False),
    Column("headers", Text, nullable=False, comment="JSON object"),
    Column("created_at", Timestamp, nullable=False),
    Column("published_at", Timestamp, comment="null until the stream has acknowledged it"),
    Column("sequence", BigInteger, comment="where the stream keeps it"),
)
# An outbox is polled for what is unpublished; without this partial index the poll slows down with every row kept.
Index(
    "outbox_unpublished",
    outbox.c.id,
    postgresql_where=outbox.c.published_at.is_(None),
    sqlite_where=outbox.c.published_at.is_(None),
)

streams = Table(
    "streams",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("incarnation", BigInteger, nullable=False, comment="how often the stream was made; 0: not yet"),
    Column("begun_at", Timestamp, nullable=False, comment="when somebody set out to make this incarnation"),
    Column("sequence", BigInteger, nullable=False, comment="newest mark in the outbox; 0: none"),
    Column("message_id", Uuid, comment="the message there"),
)

dead_letters = Table(
    "dead_letters",
    METADATA,
    Column("id", String(32), primary_key=True, comment="hash of service, event id, subject and payload"),
    Column("event_id", Text, nullable=False, comment="ce-id; stream/sequence when the message has none"),
    Column("subject", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("headers", Text, nullable=False, comment="JSON object"),
    Column("error", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("trace_id", String(32), nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("attended_at", Timestamp, comment="null until somebody replayed or discarded it"),
)
Index("dead_letters_attended", dead_letters.c.attended_at)

dead_letter_acts = Table(
    "dead_letter_acts",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("dead_letter", String(32), ForeignKey("dead_letters.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", Timestamp, nullable=False),
    Column("by", Text, nullable=False, comment="who did it"),
    Column("what", String(16), nullable=False),
    Column("note", Text, comment="the reason of a discard, the error of a replay that failed"),
    CheckConstraint("what in ('replayed', 'replay_failed', 'discarded')", name="dead_letter_act"),
)

idempotency_keys = Table(
    "idempotency_keys",
    METADATA,
    Column("id", LargeBinary(32), primary_key=True, comment="hash of subject, route and key"),
    Column("fingerprint", LargeBinary(32), nullable=False, comment="keyed hash of the request's body"),
    Column("outcome", Text, nullable=False, comment="JSON: the first result, or the refusal"),
    Column("created_at", Timestamp, nullable=False, index=True),
)
