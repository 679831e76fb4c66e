"""The statements that `bench.filling` fills databases with: rows are made from numbers, by PostgreSQL itself.

Nothing is asked of another database: the ids of account and order number so-and-so follow from the number and from
the moment of filling, wherever they are needed.
"""

from collections.abc import Mapping
from typing import Final

WORDS: Final = (
    # What is to be made. `outbox` and `keys` count the rows of this one service.
    """
    create temp table given (
        now timestamptz, accounts bigint, orders bigint, outbox bigint, keys bigint, dead_letters bigint,
        facts_since interval, keys_since interval
    )""",
    # A UUIDv7 of that moment: what kind of thing it names stands where others count within the millisecond.
    """
    create function pg_temp.id7(at timestamptz, kind int, n bigint) returns uuid language sql immutable as $$
        select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || to_hex(28672 + kind)
            || '8000' || lpad(to_hex(n), 12, '0'))::uuid
    $$""",
    # That many parts of a whole after a moment.
    """
    create function pg_temp.after(at timestamptz, whole interval, n bigint, parts bigint)
    returns timestamptz language sql immutable as $$
        select at + whole * (n::float8 / greatest(parts, 1))
    $$""",
    """
    create function pg_temp.trace(n bigint) returns text language sql immutable as $$
        select '00-' || md5(n::text) || '-' || left(md5((-n)::text), 16) || '-00'
    $$""",
    """
    create temp view account as
    select n, at,
        pg_temp.id7(at, 1, n) as user_id, pg_temp.id7(at, 2, n) as account_id, pg_temp.id7(at, 3, n) as deposit,
        'account-' || n as login, 'account-' || n || '@example.org' as email,
        case n % 10 when 0 then 'rejected' when 1 then 'cancelled' else 'confirmed' end as fate,
        case n % 10 when 0 then 50 else 100000000 end as paid_in,
        case n % 10 when 0 then 0 else orders / accounts + (n < orders % accounts)::int end as paid_for
    from given, generate_series(0, accounts - 1) n,
        pg_temp.after(now - interval '60 days', '30 days', n, accounts) at""",
    # Order n is the `nth` one, from 0, of account n modulo all accounts.
    """
    create temp view placed as
    select o.n, o.at, pg_temp.id7(o.at, 4, o.n) as order_id, pg_temp.id7(o.at, 5, o.n) as refund,
        o.nth, 100 as price, pg_temp.id7(a.at, 1, o.whose) as user_id, pg_temp.id7(a.at, 2, o.whose) as account_id,
        case o.whose % 10 when 0 then 'rejected' when 1 then 'cancelled' else 'confirmed' end as fate,
        'account-' || o.whose as login
    from given,
        lateral (
            select n, n % accounts as whose, n / accounts as nth, at
            from generate_series(0, orders - 1) n, pg_temp.after(now - interval '30 days', '29 days', n, orders) at
        ) o,
        pg_temp.after(now - interval '60 days', '30 days', o.whose, accounts) a (at)""",
    """
    create temp view stated as
    select n, at, pg_temp.id7(at, 6, n) as id, pg_temp.id7(at, 7, n / 2) as order_id, pg_temp.id7(at, 1, n) as user_id
    from given, generate_series(0, outbox - 1) n, pg_temp.after(now - facts_since, '12 hours', n, outbox) at""",
    """
    create function pg_temp.headers(id uuid, kind text, at timestamptz, n bigint)
    returns text language sql immutable as $$
        select '{"ce-specversion":"1.0","ce-id":"' || id || '","ce-type":"' || kind || '","ce-source":"/'
            || split_part(kind, '.', 1) || '","ce-time":"'
            || to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
            || '","content-type":"application/json","Nats-Msg-Id":"' || id || '","traceparent":"'
            || pg_temp.trace(n) || '"}'
    $$""",
)
"""What the other statements are made of; gone with the connection. `given` is to get one row."""

_USERS = """
    insert into users (id, login, password_hash, account_id, registration, traceparent, due_at, restated, created_at)
    select user_id, login, '$argon2id$v=19$m=19456,t=2,p=1$' || left(md5(login), 22) || '$' || left(md5(n::text), 43),
        account_id, null, pg_temp.trace(n), null, 0, at
    from account"""

_PROFILES = """
    insert into profiles (user_id, login, email, first_name, last_name, phone, version)
    select user_id, login, email, null, null, null, 0 from account"""

_WALLETS = """
    insert into wallets (user_id, account_id, balance_minor, version, opened_at)
    select user_id, account_id, paid_in - case fate when 'confirmed' then 100 * paid_for else 0 end,
        1 + case fate when 'cancelled' then 2 * paid_for else paid_for end, at
    from account"""

_DEPOSITS = """
    insert into transfers
        (id, kind, debit, credit, amount_minor, wallet, version, balance_minor, order_id, at)
    select deposit, 'deposit', '00000000-0000-7000-8000-0000000000c1', account_id, paid_in,
        account_id, 1, paid_in, null, at
    from account"""

_TAKEN = """
    insert into transfers
        (id, kind, debit, credit, amount_minor, wallet, version, balance_minor, order_id, at)
    select order_id, 'payment', account_id, '00000000-0000-7000-8000-0000000000c2', price, account_id,
        2 + case fate when 'cancelled' then 2 * nth else nth end,
        100000000 - price * case fate when 'cancelled' then 1 else nth + 1 end, order_id, at
    from placed where fate <> 'rejected'"""

_GIVEN_BACK = """
    insert into transfers
        (id, kind, debit, credit, amount_minor, wallet, version, balance_minor, order_id, at)
    select refund, 'refund', '00000000-0000-7000-8000-0000000000c2', account_id, price, account_id,
        3 + 2 * nth, 100000000, order_id, at
    from placed where fate = 'cancelled'"""

_PAYMENTS = """
    insert into payments (order_id, user_id, amount_minor, outcome, reason, decided_at)
    select order_id, user_id, price, case fate when 'rejected' then 'declined' else 'accepted' end,
        case fate when 'rejected' then 'insufficient_funds' end, at
    from placed"""

_REFUNDS = """
    insert into refunds (order_id, user_id, amount_minor, at)
    select order_id, user_id, price, at from placed where fate = 'cancelled'"""

_ORDERS = """
    insert into orders
        (id, user_id, price_minor, description, status, reason, refunded_minor,
        created_at, traceparent, due_at, restated)
    select order_id, user_id, price, 'a lamp', fate, case fate when 'rejected' then 'insufficient_funds' end,
        case fate when 'cancelled' then price end, at, pg_temp.trace(n), null, 0
    from placed"""

KEYS: Final = """
    insert into idempotency_keys (id, fingerprint, outcome, created_at)
    select sha256((now || '/' || n)::bytea), sha256(n::text::bytea),
        '{"order_id":"' || pg_temp.id7(at, 4, n) || '"}', at
    from given, generate_series(0, keys - 1) n, pg_temp.after(now - keys_since, '5 days', n, keys) at"""
"""What fills the idempotency keys of any service."""

_CONTACTS = """
    insert into contacts (user_id, login, email, first_name, version)
    select user_id, login, email, null, 0 from account"""

_LETTERS_OF_DEPOSITS = """
    insert into letters (id, user_id, kind, cause, order_id, recipient, subject, body, created_at)
    select pg_temp.id7(at, 8, n), user_id, 'deposit', 'transfer:' || deposit, null, email, 'Your deposit has arrived',
        'Dear ' || login || E',\\n\\nYour deposit is on your account.\\n\\nOrderly', at
    from account"""

_LETTERS_OF_OUTCOMES = """
    insert into letters (id, user_id, kind, cause, order_id, recipient, subject, body, created_at)
    select pg_temp.id7(at, 9, n), user_id, kind, 'order:' || order_id || ':' || kind, order_id,
        login || '@example.org', 'Your order',
        'Dear ' || login || E',\\n\\nWe write to you about your order of a lamp for 1.00.\\n\\nOrderly', at
    from placed, lateral (select case fate when 'rejected' then 'sorrow' else 'joy' end as kind) letter"""

_LETTERS_OF_CANCELLATIONS = """
    insert into letters (id, user_id, kind, cause, order_id, recipient, subject, body, created_at)
    select pg_temp.id7(at, 10, n), user_id, 'cancelled', 'order:' || order_id || ':cancelled', order_id,
        login || '@example.org', 'Your order is cancelled',
        'Dear ' || login || E',\\n\\nAs you wished, your order of a lamp for 1.00 is cancelled.\\n\\nOrderly', at
    from placed where fate = 'cancelled'"""

_DEAD_LETTERS = """
    insert into dead_letters
        (id, event_id, subject, payload, headers, error, attempts, trace_id, created_at, attended_at)
    select md5(n::text), pg_temp.id7(at, 11, n), 'billing.payment.accepted.' || pg_temp.id7(at, 4, n), '{}', '{}',
        'Refusal: not a billing.payment.accepted', 1, md5(n::text), at, at + interval '1 hour'
    from given, generate_series(0, dead_letters - 1) n,
        pg_temp.after(now - interval '20 days', '10 days', n, dead_letters) at"""

_ACTS = """
    insert into dead_letter_acts (id, dead_letter, at, by, what, note)
    select gen_random_uuid(), id, attended_at, 'somebody', 'discarded', 'nobody needs it' from dead_letters"""

# A stream numbers from 1; below it no number is ever another message's.
_FACTS = """
    insert into outbox (id, subject, payload, headers, created_at, published_at, sequence)
    select id, kind || '.' || about, payload, pg_temp.headers(id, kind, at, n), at, at, n - outbox
    from given, stated, lateral ({}) fact"""

_OF_ORDERS = """
    select case n % 2 when 0 then 'orders.order.placed' else 'orders.order.confirmed' end as kind,
        '{"order_id":"' || order_id || '","user_id":"' || user_id || '","price":"1.00"}' as payload,
        order_id as about"""

_OF_BILLING = """
    select 'billing.payment.accepted' as kind,
        '{"order_id":"' || order_id || '","user_id":"' || user_id || '","amount":"1.00"}' as payload,
        order_id as about"""

_OF_NOTIFICATIONS = """
    select 'notifications.letter.stored' as kind,
        '{"letter_id":"' || pg_temp.id7(at, 9, n) || '","user_id":"' || user_id
        || '","order_id":"' || order_id || '","kind":"joy","recipient":"account-' || n || '@example.org"}' as payload,
        order_id as about"""

_OF_AUTH = """
    select 'auth.user.registered' as kind, '{"user_id":"' || user_id || '","login":"account-' || n
        || '","email":"account-' || n || '@example.org"}' as payload,
        user_id as about"""

_OF_PROFILES = """
    select 'profiles.profile.changed' as kind, '{"user_id":"' || user_id || '","login":"account-' || n
        || '","email":"account-' || n || '@example.org","version":1}' as payload,
        user_id as about"""

# They were made before anything was published.
_STREAM = "update streams set begun_at = least(begun_at, (select now - interval '61 days' from given))"

FACTS: Final[Mapping[str, str]] = {
    "auth": _FACTS.replace("{}", _OF_AUTH),
    "profiles": _FACTS.replace("{}", _OF_PROFILES),
    "billing": _FACTS.replace("{}", _OF_BILLING),
    "orders": _FACTS.replace("{}", _OF_ORDERS),
    "notifications": _FACTS.replace("{}", _OF_NOTIFICATIONS),
}
"""What fills the outbox, by service."""

ROWS: Final[Mapping[str, tuple[str, ...]]] = {
    "auth": (_USERS,),
    "profiles": (_PROFILES,),
    "billing": (_WALLETS, _DEPOSITS, _TAKEN, _GIVEN_BACK, _PAYMENTS, _REFUNDS),
    "orders": (_ORDERS,),
    "notifications": (_CONTACTS, _LETTERS_OF_DEPOSITS, _LETTERS_OF_OUTCOMES, _LETTERS_OF_CANCELLATIONS),
}
"""What fills the tables of each service."""

OF_EACH: Final = (_STREAM, _DEAD_LETTERS, _ACTS)
"""What fills the tables that every service has."""
