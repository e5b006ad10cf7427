"""What `encode` is made of: work units, what a worker does with one, and the account of what became of all of them."""
