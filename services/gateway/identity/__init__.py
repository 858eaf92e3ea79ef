"""Users, passwords, tokens and API keys: who a caller is. Knows nothing of HTTP and nothing of rate limits."""
