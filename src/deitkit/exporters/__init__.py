"""Bundle -> folders that other libraries open, written whole or not at all."""
