"""The kinds of Pareto set: what a method returns, preference -> weights."""
