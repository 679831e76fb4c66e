"""HTTP manners: routes, problems, identity, idempotency keys."""
