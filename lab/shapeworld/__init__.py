"""The drawn world: the data that the embedded family is trained and judged on."""
