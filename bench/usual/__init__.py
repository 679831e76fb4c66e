"""The order path with the stack that people would pick: FastStream, FastAPI, SQLAlchemy's ORM.

Written fairly: the same requests and answers, and the same guarantees. State and events are written together (outbox)
and published after the commit; a sweep publishes what was left; effects are keyed by their cause; an order's request
awaits billing's answer. Twice, by the setting `TUNED`: as the libraries' documentation shows it, and with what a good
engineer would then turn: workers that handle messages concurrently, and pools that are large enough for them.
"""
