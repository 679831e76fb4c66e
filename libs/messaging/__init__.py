"""Messages: a bus (JetStream, or its in-memory twin), the outbox and its relay, consumers, awaited answers."""
