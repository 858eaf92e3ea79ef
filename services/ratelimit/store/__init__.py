"""The shared counters in Redis: one script call for all that waits, on one connection, under one deadline; on a cluster
one for each node.
"""

from services.ratelimit.store.cluster import ClusterStore
from services.ratelimit.store.redis import RedisStore

__all__ = ["ClusterStore", "RedisStore"]
