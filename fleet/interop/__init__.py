"""Other systems' formats, read and written: each a module, its library imported there alone."""
