"""The dialects: what clients see. One package a dialect (routes, shapes, error bodies), no logic beyond translation.

Read `front` first (how a request finds its handler), then `dialects` (which path belongs to whom), `errors` (every
error body), and any dialect. `exchange` is the hot path: raw ASGI, no framework.
"""
