"""Translation: an encoder-decoder learnt from pairs of texts, what it writes, how good that is."""
