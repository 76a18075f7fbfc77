"""Fine-tune the embedding model behind a LlamaIndex retriever, prove it on held-out data, and swap it in."""
