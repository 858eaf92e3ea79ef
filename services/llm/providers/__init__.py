"""The providers: each turns a conversation into its own wire format and back, and its failures into our errors."""
