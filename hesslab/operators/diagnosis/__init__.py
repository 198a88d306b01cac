"""Where the time, the memory and the copies of products go: the clock, the figures, the verdict."""
