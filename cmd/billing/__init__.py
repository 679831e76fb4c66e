"""Billing: whose account holds how much, and why.

Billing owns the accounts and the ledger. It opens an account for everyone who registers, takes deposits and
pays withdrawals over HTTP, and answers every placed order with `PaymentAccepted` or `PaymentDeclined`, every
cancelled one with `PaymentRefunded`.
"""
