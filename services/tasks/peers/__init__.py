"""The ports over what the service talks to besides its database: the broker's queues, and the addresses of webhooks."""
