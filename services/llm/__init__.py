"""Language models behind one chat contract.

Owns the catalogue of models, the conversation with every provider (built-in echo, Ollama, servers that speak the
OpenAI API), the usage of each request and the stored answers of idempotent ones. Calls providers over HTTP and
Postgres; the gateway and the agents call it.
"""
