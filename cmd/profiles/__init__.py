"""Profiles: how to address somebody, and where to reach them.

Profiles owns names, e-mail addresses and phone numbers. It starts a profile for everyone who registers, lets its
owner change it, and states every change with a version that grows.
"""
