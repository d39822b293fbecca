"""Text, tokenizer, batches, the loop and the evaluation. Needs the extra `train`.

`run.train(cfg, run_dir)` ties them together; nothing in the model knows this package.
"""
