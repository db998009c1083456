"""Evaluators turn a Pareto set into a front."""
