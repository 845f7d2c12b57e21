"""A bundle and a picture -> what each head of the model looked at, and how far to believe it."""
