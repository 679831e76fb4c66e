"""The order path with the stack that people would pick: FastStream, FastAPI, SQLAlchemy's ORM.

Written fairly: the same requests and answers, and the same guarantees. State and events are written together (outbox)
and published after the commit; a sweep publishes what was left; a handler that fails is tried again, and its effects
are keyed by their cause; an order's request awaits billing's answer. Twice, by the setting `TUNED`: as the libraries'
documentation shows it, and with what a good engineer would then turn: workers that handle messages concurrently, pools
that are large enough for them, a relay that publishes and marks together what was committed meanwhile, tokens that are
verified once a minute, a faster client in the gateway, and no log line for each message.
"""
