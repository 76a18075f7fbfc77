"""What `ace-finetune` does, callable from Python; nothing here prints."""
