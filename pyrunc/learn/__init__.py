"""pyrunc learn: run a program, and see the least that it needs. No other verb loads this code."""
