"""Assemble, state, parts, step, loop, events."""
