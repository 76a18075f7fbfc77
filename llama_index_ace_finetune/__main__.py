"""`python -m llama_index_ace_finetune`, as torchrun starts it: the command `ace-finetune`."""

from llama_index_ace_finetune.cli import main

if __name__ == "__main__":
    main()
