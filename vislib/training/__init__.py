"""Training of vision-language models: rows, labels, batches, processes and answers, shared by
stages 10 to 12.
"""
