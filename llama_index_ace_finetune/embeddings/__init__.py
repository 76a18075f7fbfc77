"""The model as a LlamaIndex embedding."""
