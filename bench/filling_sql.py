"""The statements that `bench.filling` fills databases with: rows are made from numbers, by PostgreSQL itself.

Nothing is asked of another database: the ids of account and order number so-and-so follow from the number and from
the moment of filling, wherever they are needed.
"""

from collections.abc import Mapping
from typing import Final

WORDS: Final = (
    # What is to be made, in milliseconds since 1970 and rows. `outbox` and `keys` count those of this one service.
    """
    create temp table given (
        now bigint, accounts bigint, orders bigint, outbox bigint, keys bigint, dead_letters bigint,
        facts_since bigint, keys_since bigint
    )""",
    # A UUIDv7 of that moment: four digits say what kind of thing it names, and `n` stands for chance.
    """
    create function pg_temp.id7(ms bigint, kind text, n bigint) returns uuid language sql immutable as $$
        select ('0' || to_hex(ms) || kind || to_hex(n + '-9223372036854775808'::bigint))::uuid
    $$""",
    """
    create function pg_temp.moment(ms bigint) returns timestamptz language sql immutable as $$
        select to_timestamp(ms::float8 / 1000)
    $$""",
    """
    create function pg_temp.days(number bigint) returns bigint language sql immutable as $$
        select number * 86400000
    $$""",
    """
    create function pg_temp.trace(n bigint) returns text language sql immutable as $$
        select '00-' || md5(n::text) || '-' || to_hex(n + '-9223372036854775808'::bigint) || '-00'
    $$""",
    # Here and below `offset 0` has everything computed once, however often it is named.
    """
    create temp view account as
    select *, 'account-' || n as login, 'account-' || n || '@example.org' as email,
        case n % 10 when 0 then 'rejected' when 1 then 'cancelled' else 'confirmed' end as fate,
        case n % 10 when 0 then 50 else 100000000 end as paid_in,
        case n % 10 when 0 then 0 else orders / accounts + (n < orders % accounts)::int end as paid_for
    from (
        select n, ms, orders, accounts, pg_temp.moment(ms) as at, pg_temp.id7(ms, '7001', n) as user_id,
            pg_temp.id7(ms, '7002', n) as account_id, pg_temp.id7(ms, '7003', n) as deposit
        from (
            select n, orders, accounts, now - pg_temp.days(60) + pg_temp.days(30) * n / accounts as ms
            from given, generate_series(0, accounts - 1) n offset 0
        ) numbered offset 0
    ) made""",
    # Order n is the `nth` one, from 0, of account n modulo all accounts.
    """
    create temp view placed as
    select *, 100 as price, 'account-' || whose as login,
        case whose % 10 when 0 then 'rejected' when 1 then 'cancelled' else 'confirmed' end as fate
    from (
        select n, ms, whose, nth, pg_temp.moment(ms) as at,
            pg_temp.id7(ms, '7004', n) as order_id, pg_temp.id7(ms, '7005', n) as refund,
            pg_temp.id7(registered, '7001', whose) as user_id, pg_temp.id7(registered, '7002', whose) as account_id
        from (
            select n, n % accounts as whose, n / accounts as nth,
                now - pg_temp.days(30) + pg_temp.days(29) * n / orders as ms,
                now - pg_temp.days(60) + pg_temp.days(30) * (n % accounts) / accounts as registered
            from given, generate_series(0, orders - 1) n offset 0
        ) numbered offset 0
    ) made""",
    """
    create temp view stated as
    select n, ms, outbox, pg_temp.moment(ms) as at, pg_temp.id7(ms, '7006', n) as id,
        pg_temp.id7(ms, '7007', n / 2) as order_id, pg_temp.id7(ms, '7001', n) as user_id
    from (
        select n, outbox, now - facts_since + pg_temp.days(1) / 2 * n / outbox as ms
        from given, generate_series(0, outbox - 1) n offset 0
    ) numbered offset 0""",
    """
    create function pg_temp.headers(id uuid, kind text, at timestamptz, n bigint)
    returns text language sql immutable as $$
        select format('{"ce-specversion":"1.0","ce-id":"%1$s","ce-type":"%2$s","ce-source":"/%3$s","ce-time":"%4$s",'
            '"content-type":"application/json","Nats-Msg-Id":"%1$s","traceparent":"%5$s"}',
            id, kind, split_part(kind, '.', 1), to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            pg_temp.trace(n))
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
        '{"order_id":"' || pg_temp.id7(ms, '7004', n) || '"}', pg_temp.moment(ms)
    from (
        select n, now, now - keys_since + pg_temp.days(5) * n / keys as ms
        from given, generate_series(0, keys - 1) n offset 0
    ) numbered"""
"""What fills the idempotency keys of any service."""

_CONTACTS = """
    insert into contacts (user_id, login, email, first_name, version)
    select user_id, login, email, null, 0 from account"""

_LETTERS_OF_DEPOSITS = """
    insert into letters (id, user_id, kind, cause, order_id, recipient, subject, body, created_at)
    select pg_temp.id7(ms, '7008', n), user_id, 'deposit', 'transfer:' || deposit, null, email,
        'Your deposit has arrived', 'Dear ' || login || E',\\n\\nYour deposit is on your account.\\n\\nOrderly', at
    from account"""

_LETTERS_OF_OUTCOMES = """
    insert into letters (id, user_id, kind, cause, order_id, recipient, subject, body, created_at)
    select pg_temp.id7(ms, '7009', n), user_id, kind, 'order:' || order_id || ':' || kind, order_id,
        login || '@example.org', 'Your order',
        'Dear ' || login || E',\\n\\nWe write to you about your order of a lamp for 1.00.\\n\\nOrderly', at
    from placed, lateral (select case fate when 'rejected' then 'sorrow' else 'joy' end as kind) letter"""

_LETTERS_OF_CANCELLATIONS = """
    insert into letters (id, user_id, kind, cause, order_id, recipient, subject, body, created_at)
    select pg_temp.id7(ms, '700a', n), user_id, 'cancelled', 'order:' || order_id || ':cancelled', order_id,
        login || '@example.org', 'Your order is cancelled',
        'Dear ' || login || E',\\n\\nAs you wished, your order of a lamp for 1.00 is cancelled.\\n\\nOrderly', at
    from placed where fate = 'cancelled'"""

_DEAD_LETTERS = """
    insert into dead_letters
        (id, event_id, subject, payload, headers, error, attempts, trace_id, created_at, attended_at)
    select md5(n::text), pg_temp.id7(ms, '700b', n), 'billing.payment.accepted.' || pg_temp.id7(ms, '7004', n), '{}',
        '{}', 'Refusal: not a billing.payment.accepted', 1, md5(n::text), pg_temp.moment(ms), pg_temp.moment(ms)
    from (
        select n, now - pg_temp.days(20) + pg_temp.days(10) * n / dead_letters as ms
        from given, generate_series(0, dead_letters - 1) n offset 0
    ) numbered"""

_ACTS = """
    insert into dead_letter_acts (id, dead_letter, at, by, what, note)
    select gen_random_uuid(), id, attended_at, 'somebody', 'discarded', 'nobody needs it' from dead_letters"""

# A stream numbers from 1; below it no number is ever another message's.
_FACTS = """
    insert into outbox (id, subject, payload, headers, created_at, published_at, sequence)
    select id, kind || '.' || about, payload, pg_temp.headers(id, kind, at, n), at, at, n - outbox
    from stated, lateral ({}) fact"""

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
        '{"letter_id":"' || pg_temp.id7(ms, '7009', n) || '","user_id":"' || user_id
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
_STREAM = "update streams set begun_at = least(begun_at, (select pg_temp.moment(now - pg_temp.days(61)) from given))"

FACTS: Final[Mapping[str, tuple[str]]] = {
    "auth": (_FACTS.replace("{}", _OF_AUTH),),
    "profiles": (_FACTS.replace("{}", _OF_PROFILES),),
    "billing": (_FACTS.replace("{}", _OF_BILLING),),
    "orders": (_FACTS.replace("{}", _OF_ORDERS),),
    "notifications": (_FACTS.replace("{}", _OF_NOTIFICATIONS),),
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
