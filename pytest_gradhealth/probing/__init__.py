"""From a model and a batch to a verdict: seeds, looks, rules and the second look."""
