"""Model ↔ proto, pure: the gRPC face, events out and news of tasks in, and what is told to webhooks."""
