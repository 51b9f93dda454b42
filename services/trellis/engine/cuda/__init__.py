"""What the engine does otherwise on a GPU: attention over the paged cache, and recorded graphs for decoding."""
