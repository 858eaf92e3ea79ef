"""A gRPC server on asyncio alone: calls that one read brings are taken together, and their answers leave in one write.

HTTP/2 itself is `jh2`'s. Clients are grpc.aio's channels; nothing here knows the mesh.
"""
