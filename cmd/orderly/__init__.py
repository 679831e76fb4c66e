"""Orderly: the operator's program. Runs the system on one machine, plays its story, shows its events.

The only package that may import every service.
"""
