"""Notifications: the letters that customers get.

Notifications owns the letters, and a read model of contacts to address them. Every outcome of an order becomes
exactly one letter: of joy, of sorrow, or of cancellation. Deposits become letters too, and anyone may write to
themselves.
"""
