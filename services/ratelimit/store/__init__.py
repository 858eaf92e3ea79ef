"""The shared counters in Redis: one script call for all that waits, on one connection, under one deadline."""

from services.ratelimit.store.redis import RedisStore

__all__ = ["RedisStore"]
