"""Calls between processes: the server, peers with their picker, lanes, and the one table errors ↔ gRPC status."""
