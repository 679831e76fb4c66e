"""Orders: what a customer ordered, and what became of it.

Orders owns the orders and their state machine. It states that an order was placed, awaits billing's answer, and
states the outcome: confirmed, rejected, or cancelled. It never calls anyone.
"""
