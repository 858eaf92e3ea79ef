"""The face that nobody calls: conversations and models as tasks."""
