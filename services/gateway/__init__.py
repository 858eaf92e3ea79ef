"""The front door: HTTP, SSE and WebSocket in, gRPC out.

It translates, and owns identity (users, sessions, API keys: schema `gateway`). It calls ratelimit for every request
and agents, tasks and llm for what it asks; it consumes their events for its live streams. Only clients call it.
"""
