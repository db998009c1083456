"""A paper's table: which runs make it up, what is read from them, and what the paper reports."""
