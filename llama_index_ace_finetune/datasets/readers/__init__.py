"""One reader per format; `read_dataset` chooses among them."""
