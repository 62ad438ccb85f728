"""The store as a game of moves: what each verb must do and leave alone, and what must be true after every move."""
