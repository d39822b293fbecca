"""Token → state: each block is computed only from the source that it is named for."""
