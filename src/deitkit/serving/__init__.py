"""A model over HTTP: bounded, batched, quiet. It stores nothing and fetches nothing."""
