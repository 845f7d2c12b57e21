"""Events and reports -> people."""
