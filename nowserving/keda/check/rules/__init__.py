"""What bites, one rule a function, rules of one matter in one module."""
