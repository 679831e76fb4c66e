"""Gateway: the only door from outside.

The gateway owns nothing. It checks the token, passes the request to the service it is for, and passes the answer
back. Every service checks the token again: the gateway is the only door, not the only lock.
"""
