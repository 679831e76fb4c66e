"""Auth: who somebody is, and how they prove it.

Auth owns credentials (argon2id), the signing keys and the tokens (RS256 JWT). It states that somebody registered,
and awaits that billing has opened the account before it calls a registration done.
"""
