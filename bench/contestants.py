"""Who is compared."""

from typing import Final

from bench.ours import orderly
from bench.running import Contestant
from bench.theirs import usual

OURS: Final = "orderly"
THEIRS: Final = "faststream"

CONTESTANTS: Final = {
    one.name: one
    for one in (
        Contestant(OURS, "this system, as shipped", orderly, (1, 64, 256)),
        Contestant(
            THEIRS,
            "FastStream, FastAPI and SQLAlchemy's ORM, as their documentation shows them",
            lambda folder: usual(folder, tuned=False),
            (1, 64, 256),
        ),
        Contestant(
            "faststream-tuned",
            "the same, tuned as a good engineer would",
            lambda folder: usual(folder, tuned=True),
            (64, 256),
        ),
        Contestant(
            "one-by-one", "this system, one message a transaction", lambda folder: orderly(folder, BATCH_LIMIT="1")
        ),
        Contestant("orderly-hot", "this system, every order from one wallet", orderly, accounts=1),
        Contestant(
            "orderly-default-sync",
            "this system, where NATS flushes by its own default: less is guaranteed",
            lambda folder: orderly(folder, sync_interval="2m"),
        ),
        Contestant(
            "orderly-sqlite", "this system on SQLite, embedded", lambda folder: orderly(folder, database="sqlite")
        ),
    )
}
"""In the order of the tables and the plots; the first is what the others are compared with."""
