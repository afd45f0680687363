"""What a step of unlearning is made of."""
