"""The engine: a network traced once, and its derivatives as graphs that are cheap to run again."""
