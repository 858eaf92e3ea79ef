"""What every request passes before a route sees it, as pure ASGI. Knows no dialect and no domain.

The order, outermost first: request id and trace, security headers, authentication, rate limit, metrics, errors. All of
it is one object (`pipeline.Edge`) with one send wrapper: layers of their own would cost a coroutine a message each.
"""
