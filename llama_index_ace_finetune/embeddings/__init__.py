"""The fine-tuned model as a LlamaIndex embedding."""
