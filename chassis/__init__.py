"""What every service is bolted to: plumbing that knows no domain word and imports no service.

Read `lifecycle` first (how a process starts and ends), then `errors` (the only error vocabulary), `rpc` (calls between
processes), `messaging` (RabbitMQ and the outbox) and `discovery`. A module belongs here when three services need it.
"""
