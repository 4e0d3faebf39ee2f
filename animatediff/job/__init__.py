"""A job: its declaration, its rules, and the words for what is wrong with it."""
