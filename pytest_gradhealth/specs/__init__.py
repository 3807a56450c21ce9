"""Models by name: what a spec stands for, the batch and the loss that go with it, and its test."""
