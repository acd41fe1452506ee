"""What the training examples are made of."""
