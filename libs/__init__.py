"""What the services share: contracts, messaging, storage, HTTP manners. Never imports a service."""
