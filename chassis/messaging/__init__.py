"""RabbitMQ: topology, confirmed publishing, consumers that do not go silent, and the outbox."""
