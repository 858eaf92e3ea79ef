"""The OpenAI API, under ``/v1``, as its SDKs speak it. One module a resource; `wire` translates, `shapes` documents."""
