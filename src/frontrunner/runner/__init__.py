"""Execution: the only room that talks to Lightning."""
