"""Pictures, texts and vectors: what every stage needs to read, count, embed and show them."""
