"""The soak: people use the system for minutes while one fault after the other happens, and what came of it."""
